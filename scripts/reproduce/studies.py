"""The paper's experiments in miniature: what is compared, and with what."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sam_jax.reports.results import confidence_half_width
from scripts.reproduce import measures, plots
from scripts.reproduce.claims import Claim, is_equal, is_lower, slope
from scripts.reproduce.laboratory import RHOS, Grid, Laboratory

NOISE_RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
MS = (4, 8, 16, 32, 64)
SCORED_MS = (1, 4, 16, 64, 512)
ASAM_RHOS = (0.2, 0.5, 1.0, 2.0, 3.0, 5.0)
# Balls of other norms have another size: these cover the best radius of each.
RHOS_OF_P = {
  1.0: (0.1, 0.2, 0.5, 1.0, 2.0, 4.0),
  2.0: RHOS,
  np.inf: (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
}
# A random direction needs longer ones: it misses most of the sharp directions.
RHOS_OF_NOISE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MARGIN = 0.5  # points of test error that count as no difference
FAILED = 10  # percent of test error, without label noise


class Study(NamedTuple):
  """What a study found.

  Attributes:
    title: Its headline.
    text: What was done.
    header: Of the table.
    rows: Of the table.
    claims: The paper's claims and their verdicts.
    draw: Writes the picture to a path; None: there is none.
    caption: What the picture shows.
  """

  title: str
  text: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  claims: Sequence[Claim]
  draw: Callable[[pathlib.Path], None] | None = None
  caption: str = ""


def equal_cost(lab: Laboratory) -> Study:
  """(a) SAM against SGD, with as many epochs and with as many gradients."""
  grids = {
    f"SGD, {lab.num_epochs} epochs": lab.sgd(),
    f"SGD, {2 * lab.num_epochs} epochs": lab.sgd(longer=2),
    f"SAM, {lab.num_epochs} epochs": lab.sam(),
  }
  sgd, longer, sam = map(_test, grids.values())
  return Study(
    "SAM against SGD",
    "A step of SAM costs two of SGD's, so SGD with twice the epochs costs as"
    " much. SGD's learning rate, in both lengths, and SAM's rho are the best on"
    " validation data.",
    ("method", "rho", "learning rate", "training error %", "test error %"),
    [
      (
        name,
        f"{grid.setting.rho:g}" if grid.setting.rho else "",
        f"{grid.setting.learning_rate:g}",
        _mean(100 * grid.train[grid.best]),
        _mean(_test(grid)),
      )
      for name, grid in grids.items()
    ],
    [
      is_lower(
        "SAM's test error is lower than SGD's",
        "Tables 1 to 3",
        sam,
        sgd,
        "points",
      ),
      is_lower(
        "SAM's test error is lower than that of SGD with twice the epochs",
        "section 3.1",
        sam,
        longer,
        "points",
      ),
    ],
  )


def label_noise(lab: Laboratory) -> Study:
  """(b) Training labels that are wrong."""
  sgd = [_test(lab.sgd(rate)) for rate in NOISE_RATES]
  sam_grids = [lab.sam(noise_rate=rate) for rate in NOISE_RATES]
  sam = [_test(grid) for grid in sam_grids]
  return Study(
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
        f"{grid.setting.learning_rate:g}",
        _mean(a),
        _mean(b),
        f"{grid.setting.rho:g}",
      )
      for rate, a, b, grid in zip(NOISE_RATES, sgd, sam, sam_grids, strict=True)
    ],
    [
      is_lower(
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


def group_size(lab: Laboratory) -> Study:
  """(c) How many examples share a perturbation."""
  grids = {m: lab.sam(m=m) for m in MS}
  errors = {m: _test(grid) for m, grid in grids.items()}
  means = [row.mean() for row in errors.values()]
  rises = "rises" if _rises(means) else "does not rise"
  return Study(
    "m-sharpness: error against m",
    "Every m examples of a batch of 64 have a perturbation of their own. For"
    " every m, rho is the best on validation data. In the paper the error rises"
    f" with m; here the mean error {rises} steadily, and is lowest with m ="
    f" {MS[np.argmin(means)]}.",
    ("m", "rho", "test error %"),
    [
      (str(m), f"{grid.setting.rho:g}", _mean(errors[m]))
      for m, grid in grids.items()
    ],
    [
      is_lower(
        f"m = {m} gives a lower test error than m = {MS[-1]}",
        "section 4.1",
        errors[m],
        errors[MS[-1]],
        "points",
      )
      for m in MS[:-1]
    ]
    + [
      _is_below_zero(
        "Each halving of m lowers the test error",
        "section 4.1",
        -slope(np.log2(MS), list(errors.values())),
        "points",
      )
    ],
    lambda path: plots.draw_against_rho(
      {f"m = {m}": _trained(grid) for m, grid in grids.items()},
      _test(lab.sgd()),
      path,
    ),
    "Test error against rho for every m (Figure 3, middle, of the paper), where"
    f" training succeeds (below {FAILED}%).",
  )


def radius(lab: Laboratory) -> Study:
  """(d) The radius, of SAM and of ASAM."""
  sgd, sam = lab.sgd(), lab.sam()
  asam = lab.sam(ASAM_RHOS, adaptive=True)
  grids = {"SAM": sam, "ASAM": asam}
  wins = sum(
    claim.verdict == "reproduced"
    for claim in (is_lower("", "", row, sgd.test_of_best) for row in sam.test)
  )
  return Study(
    "Error against rho, for SAM and ASAM",
    f"SAM's test error is below SGD's, with the 95% interval of the paired"
    f" difference below zero, at {wins} of the {len(RHOS)} radii. The last"
    " claim is not the SAM paper's but that of ASAM's authors.",
    ("method", "rho", "validation error %", "test error %"),
    [
      (
        name,
        f"{setting.rho:g}",
        _mean(100 * grid.validation[i]),
        _mean(100 * grid.test[i]),
      )
      for name, grid in grids.items()
      for i, setting in enumerate(grid.settings)
    ],
    [
      is_lower(
        "ASAM's test error is lower than SAM's",
        "Kwon et al., 2021",
        _test(asam),
        _test(sam),
        "points",
      )
    ],
    lambda path: plots.draw_against_rho(
      {name: _trained(grid) for name, grid in grids.items()}, _test(sgd), path
    ),
    f"Test error against rho, where training succeeds (below {FAILED}%).",
  )


def curvature(lab: Laboratory) -> Study:
  """(e) The Hessian's largest eigenvalues after training."""
  grids = {"SGD": lab.sgd(), "SAM": lab.sam()}
  found = {name: measures.curvature(lab, g) for name, g in grids.items()}
  ratios = {n: f["lambda_1"] / f["lambda_5"] for n, f in found.items()}
  return Study(
    "Curvature",
    "Eigenvalues of the Hessian of the mean training loss, by Lanczos, at the"
    " networks of (a). They differ by orders of magnitude between seeds: so"
    " these are geometric means, and in parentheses 95% intervals of the mean"
    " logarithm.",
    ("method", "lambda_1 (nats)", "lambda_5 (nats)", "lambda_1 / lambda_5"),
    [
      (
        name,
        _geometric_mean(f["lambda_1"]),
        _geometric_mean(f["lambda_5"]),
        _geometric_mean(ratios[name]),
      )
      for name, f in found.items()
    ],
    [
      is_lower(
        f"SAM's {name} is lower than SGD's",
        "Figure 3, left",
        np.log(sam),
        np.log(sgd),
        "in ln",
      )
      for name, sam, sgd in (
        ("lambda_1", found["SAM"]["lambda_1"], found["SGD"]["lambda_1"]),
        ("lambda_1 / lambda_5", ratios["SAM"], ratios["SGD"]),
      )
    ],
    lambda path: plots.draw_points(
      {
        "Largest eigenvalue (nats)": {
          n: f["lambda_1"] for n, f in found.items()
        },
        "Largest over fifth eigenvalue": ratios,
      },
      path,
    ),
    "The Hessian of every seed's training loss after training.",
  )


def prediction(lab: Laboratory) -> Study:
  """(f) Which m-sharpness tells how well a network generalises."""
  found = measures.sharpness_scores(lab, SCORED_MS)
  scores, random, correlations = found
  first, last = SCORED_MS[0], SCORED_MS[-1]
  names = measures.HYPERPARAMETERS
  chance = np.full(len(scores[first]), np.mean(random))
  return Study(
    "m-sharpness as a measure of generalisation",
    _describe_scores(found),
    (
      "measure",
      "score",
      "tau",
      *(f"tau, {n.replace('_', ' ')}" for n in names),
    ),
    [
      *(
        (
          f"m = {m}",
          _mean(scores[m], 3),
          *(f"{correlations[m][name]:+.2f}" for name in ("all", *names)),
        )
        for m in SCORED_MS
      ),
      ("random", f"{np.mean(random):.3f}", *[""] * (1 + len(names))),
    ],
    [
      is_lower(
        f"A random measure scores lower than m-sharpness with m = {first}",
        "Figure 3, right",
        chance,
        scores[first],
      )
    ]
    + [
      is_lower(
        f"Sharpness of the whole training set (m = {last}) scores lower than"
        f" m-sharpness with m = {m}",
        "Figure 3, right",
        scores[last],
        scores[m],
      )
      for m in SCORED_MS[:-1]
    ]
    + [
      _is_below_zero(
        "Each doubling of m lowers the score",
        "Figure 3, right",
        slope(np.log2(SCORED_MS), list(scores.values())),
      )
    ],
    lambda path: plots.draw_scores(scores, random, path),
    "Score against m, with 95% intervals; grey: random measures.",
  )


def _describe_scores(found: measures.Scores) -> str:
  """What was scored, and how; how the score goes with m, from the numbers."""
  random, num_seeds = found.random, len(found.scores[SCORED_MS[0]])
  means = [-values.mean() for values in found.scores.values()]
  falls = "falls" if _rises(means) else "does not fall"
  return (
    "The score of the PGDL competition (section 4.1 of the paper): how much of"
    " the sign of a difference in generalisation gap the sign of the difference"
    " in m-sharpness tells, for the worst pair of hyperparameters. Networks of"
    f" SGD with widths {_list(measures.WIDTHS)}, learning rates"
    f" {_list(measures.LEARNING_RATES)} and weight decays"
    f" {_list(measures.WEIGHT_DECAYS)}, {num_seeds} seeds of each on one"
    " split of the data; m-sharpness of the training set with rho ="
    f" {measures.RHO}. Scores of all networks together, less their bias, with"
    f" intervals by the jackknife over seeds. Of {len(random)} random measures"
    f" the mean score is {np.mean(random):.3f}, the highest"
    f" {np.max(random):.3f}. The paper's scores, of larger networks, are"
    " between .03 and .17, and fall as m grows; here the mean score"
    f" {falls} steadily, and is highest with m ="
    f" {SCORED_MS[np.argmin(means)]}.\n\n"
    "The score ignores the sign: it says that m-sharpness is informative, not"
    " that flatter networks generalise better. Kendall's tau has the sign: 1"
    " where a sharper network always has the larger gap, -1 where it never"
    " has. It is over all networks, and where one hyperparameter alone differs,"
    " between means over seeds."
  )


def ascent_steps(lab: Laboratory) -> Study:
  """(g) Several steps of ascent."""
  grids = {k: lab.sam(ascent_steps=k) for k in (1, 2, 3)}
  return Study(
    "Inner steps",
    "Projected ascent of several steps. For every number of them, rho is the"
    " best on validation data.",
    ("steps", "rho", "test error %"),
    [
      (str(k), f"{grid.setting.rho:g}", _mean(_test(grid)))
      for k, grid in grids.items()
    ],
    [
      is_equal(
        f"{k} ascent steps leave the test error as it is",
        "appendix C.3",
        _test(grids[k]),
        _test(grids[1]),
        MARGIN,
        "points",
      )
      for k in (2, 3)
    ],
  )


def norms(lab: Laboratory) -> Study:
  """(h) Neighbourhoods of other norms, and perturbations at random."""
  grids = {f"p = {p:g}": lab.sam(rhos, p=p) for p, rhos in RHOS_OF_P.items()}
  noise = "a random perturbation"
  grids[noise] = lab.sam(RHOS_OF_NOISE, random_direction=True)
  return Study(
    "Norm of the neighbourhood",
    "For every p, rho is the best on validation data. A random perturbation is"
    " normal noise instead of the gradient, scaled to the length rho.",
    ("perturbation", "rho", "test error %"),
    [
      (name, f"{grid.setting.rho:g}", _mean(_test(grid)))
      for name, grid in grids.items()
    ],
    [
      is_lower(
        f"p = 2 gives a lower test error than {name}",
        source,
        _test(grids["p = 2"]),
        _test(grids[name]),
        "points",
      )
      for name, source in (
        ("p = inf", "Figure 6"),
        ("p = 1", "not in the paper"),
        (noise, "Figure 6"),
      )
    ],
  )


def second_order(lab: Laboratory) -> Study:
  """(i) The term of the gradient that SAM drops."""
  grids = {
    "without (SAM)": lab.sam(),
    "with": lab.sam(second_order=True),
  }
  without, full = map(_test, grids.values())
  return Study(
    "The second-order term",
    "SAM treats its perturbation as a constant. With the second-order term the"
    " gradient goes through it. For each, rho is the best on validation data.",
    ("second-order term", "rho", "test error %"),
    [
      (name, f"{grid.setting.rho:g}", _mean(_test(grid)))
      for name, grid in grids.items()
    ],
    [
      is_lower(
        "Without the second-order term the test error is lower",
        "appendix C.4",
        without,
        full,
        "points",
      )
    ],
  )


STUDIES: dict[str, Callable[[Laboratory], Study]] = {
  "equal_cost": equal_cost,
  "label_noise": label_noise,
  "group_size": group_size,
  "radius": radius,
  "curvature": curvature,
  "prediction": prediction,
  "ascent_steps": ascent_steps,
  "norms": norms,
  "second_order": second_order,
}


def _test(grid: Grid) -> np.ndarray:
  """Test errors of the best setting [S], in percent."""
  return 100 * grid.test_of_best


def _trained(grid: Grid) -> dict[float, np.ndarray]:
  """Test errors by rho, without those where training failed."""
  return {
    setting.rho: 100 * row
    for setting, row in zip(grid.settings, grid.test, strict=True)
    if 100 * row.mean() < FAILED
  }


def _mean(values: np.ndarray, digits: int = 2) -> str:
  """Mean and interval."""
  half = confidence_half_width(values.tolist())
  return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def _geometric_mean(values: np.ndarray) -> str:
  """Geometric mean, and the interval of the mean logarithm."""
  logarithms = np.log(values)
  mean, half = logarithms.mean(), confidence_half_width(logarithms.tolist())
  low, middle, high = np.exp([mean - half, mean, mean + half])
  return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def _rises(means: Sequence[float]) -> bool:
  return bool(np.all(np.diff(means) > 0))


def _is_below_zero(
  statement: str, source: str, values: np.ndarray, unit: str = ""
) -> Claim:
  return is_lower(statement, source, values, np.zeros(len(values)), unit)


def _list(values: Sequence[float]) -> str:
  return ", ".join(f"{value:g}" for value in values)
