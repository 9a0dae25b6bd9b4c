"""Other neighborhoods: their radius, their m, their norm, their search."""

import math

import numpy as np

from scripts.reproduce import plots
from scripts.reproduce.claims import Claim, lower, slopes
from scripts.reproduce.runs import Arm, Runs
from scripts.reproduce.studies.section import Section, chosen, format_mean

_ERROR = "test error %"

# The network of the studies in which batch statistics would interfere: those
# who share a perturbation share them, too.
NO_NORM = {"model.normalization": False}
NO_NORM_RATES = (0.01, 0.03, 0.1)

_MS = (4, 32, 64)
_ASAM_RHOS = (0.5, 1.0, 2.0)
_RHOS_OF_INF = (0.0005, 0.002, 0.008)
# A random direction misses most of the sharp directions: it needs a longer
# perturbation.
_RHOS_OF_RANDOM = (1.0, 4.0, 16.0)
_STEPS = (1, 2)
_MARGIN = 0.5  # points of test error that count as no difference


def measured_epochs(runs: Runs) -> tuple[int, ...]:
  """Return the epochs at which curvature is measured: start, middle, end."""
  return 1, runs.level.epochs // 2, runs.level.epochs


def no_norm_sgd(runs: Runs) -> Arm:
  """Return SGD without batch normalization, with the best learning rate."""
  fields = {
    **NO_NORM,
    "sam.rho": 0.0,
    "keep_checkpoints_at_epochs": measured_epochs(runs),
  }
  return runs.arm(fields, "optimizer.learning_rate", NO_NORM_RATES)


def no_norm_sam(runs: Runs, m: int) -> Arm:
  """Return SAM without batch normalization, with the best rho."""
  fields = {**no_norm_sgd(runs).fields, "sam.m": m}
  return runs.arm(fields, "sam.rho", runs.level.rhos)


def m_sharpness(runs: Runs) -> Section:
  """Compare numbers of examples that share a perturbation."""
  sgd = no_norm_sgd(runs)
  arms = {m: no_norm_sam(runs, m) for m in _MS}
  trend = slopes(np.log2(_MS).tolist(), [arm.errors for arm in arms.values()])
  return Section(
    "m-sharpness: error against m",
    "Every m examples of a batch of 64 have a perturbation of their own. The"
    " network has no batch normalization: examples that share a perturbation"
    " would share batch statistics, too. For every m, rho is the best on"
    " validation images.",
    ("m", "rho", _ERROR),
    [
      ("SGD", "", format_mean(sgd.errors)),
      *(
        (str(m), chosen(arm), format_mean(arm.errors))
        for m, arm in arms.items()
      ),
    ],
    [
      Claim(
        "Each halving of m lowers the test error",
        "section 4.1, Figure 3 (middle)",
        "about 4% with small m, up to 8% with large ones (figure, CIFAR-10)",
        tuple((-trend).tolist()),
      )
    ],
  )


def radius(runs: Runs) -> Section:
  """Compare radii of SAM and of ASAM."""
  rate = {"optimizer.learning_rate": runs.sgd().chosen}
  sgd, best = runs.sgd(), runs.sam()
  by_rho = {rho: runs.arm({**rate, "sam.rho": rho}) for rho in runs.level.rhos}
  asam = runs.sam({"sam.adaptive": True}, _ASAM_RHOS)
  lines = {rho: arm.errors for rho, arm in by_rho.items()}
  claims = [
    lower(
      f"SAM with rho = {rho:g} has a lower test error than SGD",
      "Tables 8, 9",
      "with rho = 0.05 every row of table 9 is below SGD",
      errors,
      sgd.errors,
    )
    for rho, errors in lines.items()
  ]
  claims.append(
    lower(
      "ASAM's test error is lower than SAM's, both with their best rho",
      "Kwon et al., 2021",
      "2.37 against 2.86 (WRN-16-8, CIFAR-10)",
      asam.errors,
      best.errors,
    )
  )
  rows = [("SGD", "", format_mean(sgd.errors))]
  rows += [("SAM", f"{r:g}", format_mean(e)) for r, e in lines.items()]
  rows.append(("ASAM", chosen(asam), format_mean(asam.errors)))
  return Section(
    "Error against rho, and ASAM",
    "All values of rho are tested; no choice is made among SAM's. ASAM's rho is"
    " the best on validation images. Its claim is that of its authors.",
    ("method", "rho", _ERROR),
    rows,
    claims,
    lambda path: plots.draw_against_rho({"SAM": lines}, sgd.errors, path),
    "Test error against rho, with 95% intervals.",
  )


def ascent_steps(runs: Runs) -> Section:
  """Compare numbers of ascent steps."""
  sam = runs.sam()
  arms = {_STEPS[0]: sam} | {
    steps: runs.arm({**sam.fields, "sam.ascent_steps": steps})
    for steps in _STEPS[1:]
  }
  paper = {1: "2.77", 2: "2.76"}
  return Section(
    "Inner steps",
    "Projected ascent of several steps, with the rho that is best for one.",
    ("steps", "paper, CIFAR-10", _ERROR),
    [
      (str(steps), paper[steps], format_mean(arm.errors))
      for steps, arm in arms.items()
    ],
    [
      lower(
        f"{steps} ascent steps change the test error by less than {_MARGIN}"
        " points",
        "appendix C.3, Table 11",
        f"{paper[steps]} against {paper[1]}",
        arms[steps].errors,
        arms[1].errors,
        margin=_MARGIN,
      )
      for steps in _STEPS[1:]
    ],
  )


def norms(runs: Runs) -> Section:
  """Compare norms of the neighborhood, and perturbations at random."""
  arms = {
    "p = 2 (SAM)": runs.sam(),
    "p = inf": runs.sam({"sam.p": math.inf}, _RHOS_OF_INF),
    "a random direction": runs.sam(
      {"sam.random_direction": True}, _RHOS_OF_RANDOM
    ),
  }
  sam, *others = arms.values()
  return Section(
    "Norm of the neighborhood",
    "For every neighborhood, rho is the best on validation images. A random"
    " direction is normal noise of length rho instead of the gradient.",
    ("perturbation", "rho", _ERROR),
    [
      (name, chosen(arm), format_mean(arm.errors)) for name, arm in arms.items()
    ],
    [
      lower(
        f"p = 2 gives a lower test error than {name}",
        "Figure 6",
        "about 3.4 against 3.6 and more (figure, CIFAR-10)",
        sam.errors,
        other.errors,
      )
      for name, other in zip(list(arms)[1:], others, strict=True)
    ],
  )


def second_order(runs: Runs) -> Section:
  """Compare SAM with and without the second-order term."""
  sam = runs.sam()
  full = runs.arm({**sam.fields, "sam.second_order": True})
  return Section(
    "The second-order term",
    "SAM treats its perturbation as a constant. With the second-order term the"
    " gradient goes through it. Both have the rho that is best without it.",
    ("second-order term", _ERROR),
    [
      ("without (SAM)", format_mean(sam.errors)),
      ("with", format_mean(full.errors)),
    ],
    [
      lower(
        "Without the second-order term the test error is lower",
        "appendix C.4, Figures 4 and 5",
        "lower without it at the end (figure, WRN-40-2, CIFAR-10)",
        sam.errors,
        full.errors,
      )
    ],
  )
