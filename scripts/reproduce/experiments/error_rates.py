"""Experiments that compare test errors."""

import numpy as np

from scripts.reproduce import plots
from scripts.reproduce.claims import (
  REPRODUCED,
  judge_equal,
  judge_lower,
  judge_negative,
  slope,
)
from scripts.reproduce.experiments.section import (
  Section,
  best_test_errors,
  format_mean,
  rises_steadily,
)
from scripts.reproduce.trained_networks import (
  RHOS,
  GridSearch,
  TrainedNetworks,
)

NOISE_RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
MS = (4, 8, 16, 32, 64)
ASAM_RHOS = (0.2, 0.5, 1.0, 2.0, 3.0, 5.0)
# Balls of other norms have another size: these cover the best radius of each.
RHOS_OF_P = {
  1.0: (0.1, 0.2, 0.5, 1.0, 2.0, 4.0),
  2.0: RHOS,
  np.inf: (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
}
# A random direction misses most of the sharp directions: it needs a longer
# perturbation.
RHOS_OF_NOISE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MARGIN = 0.5  # points of test error that count as no difference
FAILED = 10  # percent of test error, without label noise


def equal_cost(networks: TrainedNetworks) -> Section:
  """Compare SAM with SGD of as many epochs, and of as many gradients."""
  searches = {
    f"SGD, {networks.num_epochs} epochs": networks.sgd(),
    f"SGD, {2 * networks.num_epochs} epochs": networks.sgd(longer=2),
    f"SAM, {networks.num_epochs} epochs": networks.sam(),
  }
  sgd, longer, sam = map(best_test_errors, searches.values())
  return Section(
    "SAM against SGD",
    "A step of SAM costs two of SGD's, so SGD with twice the epochs costs as"
    " much. SGD's learning rate, in both lengths, and SAM's rho are the best on"
    " validation data.",
    ("method", "rho", "learning rate", "training error %", "test error %"),
    [
      (
        name,
        f"{search.best.rho:g}" if search.best.rho else "",
        f"{search.best.learning_rate:g}",
        format_mean(100 * search.train[search.best_index]),
        format_mean(best_test_errors(search)),
      )
      for name, search in searches.items()
    ],
    [
      judge_lower(
        "SAM's test error is lower than SGD's",
        "Tables 1 to 3",
        sam,
        sgd,
        "points",
      ),
      judge_lower(
        "SAM's test error is lower than that of SGD with twice the epochs",
        "section 3.1",
        sam,
        longer,
        "points",
      ),
    ],
  )


def label_noise(networks: TrainedNetworks) -> Section:
  """Compare SAM with SGD where some training labels are wrong."""
  sgd = [best_test_errors(networks.sgd(rate)) for rate in NOISE_RATES]
  sam_searches = [networks.sam(noise_rate=rate) for rate in NOISE_RATES]
  sam = [best_test_errors(search) for search in sam_searches]
  return Section(
    "Label noise",
    "That fraction of training labels is drawn again from all ten classes;"
    " validation and test labels are clean. SAM has the learning rate that is"
    " best for SGD on validation data, even where another one is as good for"
    " SGD and better for SAM.",
    (
      "noise",
      "learning rate",
      "SGD's test error %",
      "SAM's test error %",
      "SAM's rho",
    ),
    [
      (
        f"{rate:.0%}",
        f"{search.best.learning_rate:g}",
        format_mean(a),
        format_mean(b),
        f"{search.best.rho:g}",
      )
      for rate, a, b, search in zip(
        NOISE_RATES, sgd, sam, sam_searches, strict=True
      )
    ],
    [
      judge_lower(
        f"With {rate:.0%} noise SAM's test error is lower than SGD's",
        "Table 4",
        b,
        a,
        "points",
      )
      for rate, a, b in list(zip(NOISE_RATES, sgd, sam, strict=True))[1:]
    ],
    lambda path: plots.draw_against_noise(
      {"SGD": sgd, "SAM": sam}, [100 * rate for rate in NOISE_RATES], path
    ),
    "Test error against label noise, with 95% intervals.",
  )


def group_size(networks: TrainedNetworks) -> Section:
  """Compare numbers of examples that share a perturbation."""
  searches = {m: networks.sam(m=m) for m in MS}
  errors = {m: best_test_errors(search) for m, search in searches.items()}
  means = [row.mean() for row in errors.values()]
  rises = "rises" if rises_steadily(means) else "does not rise"
  return Section(
    "m-sharpness: error against m",
    "Every m examples of a batch of 64 have a perturbation of their own. For"
    " every m, rho is the best on validation data. In the paper the error rises"
    f" with m; here the mean error {rises} steadily, and is lowest with m ="
    f" {MS[np.argmin(means)]}.",
    ("m", "rho", "test error %"),
    [
      (str(m), f"{search.best.rho:g}", format_mean(errors[m]))
      for m, search in searches.items()
    ],
    [
      judge_lower(
        f"m = {m} gives a lower test error than m = {MS[-1]}",
        "section 4.1",
        errors[m],
        errors[MS[-1]],
        "points",
      )
      for m in MS[:-1]
    ]
    + [
      judge_negative(
        "Each halving of m lowers the test error",
        "section 4.1",
        -slope(np.log2(MS).tolist(), list(errors.values())),
        "points",
      )
    ],
    lambda path: plots.draw_against_rho(
      {f"m = {m}": _trained(search) for m, search in searches.items()},
      best_test_errors(networks.sgd()),
      path,
    ),
    "Test error against rho for every m (Figure 3, middle, of the paper), where"
    f" training succeeds (below {FAILED}%).",
  )


def radius(networks: TrainedNetworks) -> Section:
  """Compare radii of SAM and of ASAM."""
  sgd, sam = networks.sgd(), networks.sam()
  asam = networks.sam(ASAM_RHOS, adaptive=True)
  searches = {"SAM": sam, "ASAM": asam}
  wins = sum(
    judge_lower("", "", row, sgd.test_of_best).verdict == REPRODUCED
    for row in sam.test
  )
  return Section(
    "Error against rho, for SAM and ASAM",
    f"SAM's test error is below SGD's, with the 95% interval of the paired"
    f" difference below zero, at {wins} of the {len(RHOS)} radii. The last"
    " claim is not the SAM paper's but that of ASAM's authors.",
    ("method", "rho", "validation error %", "test error %"),
    [
      (
        name,
        f"{hyperparameters.rho:g}",
        format_mean(100 * search.validation[i]),
        format_mean(100 * search.test[i]),
      )
      for name, search in searches.items()
      for i, hyperparameters in enumerate(search.grid)
    ],
    [
      judge_lower(
        "ASAM's test error is lower than SAM's",
        "Kwon et al., 2021",
        best_test_errors(asam),
        best_test_errors(sam),
        "points",
      )
    ],
    lambda path: plots.draw_against_rho(
      {name: _trained(search) for name, search in searches.items()},
      best_test_errors(sgd),
      path,
    ),
    f"Test error against rho, where training succeeds (below {FAILED}%).",
  )


def ascent_steps(networks: TrainedNetworks) -> Section:
  """Compare numbers of ascent steps."""
  searches = {k: networks.sam(ascent_steps=k) for k in (1, 2, 3)}
  return Section(
    "Inner steps",
    "Projected ascent of several steps. For every number of them, rho is the"
    " best on validation data.",
    ("steps", "rho", "test error %"),
    [
      (str(k), f"{search.best.rho:g}", format_mean(best_test_errors(search)))
      for k, search in searches.items()
    ],
    [
      judge_equal(
        f"{k} ascent steps leave the test error as it is",
        "appendix C.3",
        best_test_errors(searches[k]),
        best_test_errors(searches[1]),
        MARGIN,
        "points",
      )
      for k in (2, 3)
    ],
  )


def norms(networks: TrainedNetworks) -> Section:
  """Compare norms of the neighborhood, and perturbations at random."""
  searches = {
    f"p = {p:g}": networks.sam(rhos, p=p) for p, rhos in RHOS_OF_P.items()
  }
  noise = "a random perturbation"
  searches[noise] = networks.sam(RHOS_OF_NOISE, random_direction=True)
  return Section(
    "Norm of the neighborhood",
    "For every p, rho is the best on validation data. A random perturbation is"
    " normal noise instead of the gradient, scaled to the length rho.",
    ("perturbation", "rho", "test error %"),
    [
      (name, f"{search.best.rho:g}", format_mean(best_test_errors(search)))
      for name, search in searches.items()
    ],
    [
      judge_lower(
        f"p = 2 gives a lower test error than {name}",
        source,
        best_test_errors(searches["p = 2"]),
        best_test_errors(searches[name]),
        "points",
      )
      for name, source in (
        ("p = inf", "Figure 6"),
        ("p = 1", "not in the paper"),
        (noise, "Figure 6"),
      )
    ],
  )


def second_order(networks: TrainedNetworks) -> Section:
  """Compare SAM with and without the second-order term."""
  searches = {
    "without (SAM)": networks.sam(),
    "with": networks.sam(second_order=True),
  }
  without, full = map(best_test_errors, searches.values())
  return Section(
    "The second-order term",
    "SAM treats its perturbation as a constant. With the second-order term the"
    " gradient goes through it. For each, rho is the best on validation data.",
    ("second-order term", "rho", "test error %"),
    [
      (name, f"{search.best.rho:g}", format_mean(best_test_errors(search)))
      for name, search in searches.items()
    ],
    [
      judge_lower(
        "Without the second-order term the test error is lower",
        "appendix C.4",
        without,
        full,
        "points",
      )
    ],
  )


def _trained(search: GridSearch) -> dict[float, np.ndarray]:
  """Return test errors by rho, without those where training failed."""
  return {
    hyperparameters.rho: 100 * row
    for hyperparameters, row in zip(search.grid, search.test, strict=True)
    if 100 * row.mean() < FAILED
  }
