"""Curvature along training, and m-sharpness as a measure of generalization."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from sam_jax.analysis.generalization_score import (
  generalization_score,
  rank_correlations,
)
from scripts.reproduce import plots
from scripts.reproduce.claims import Claim, lower, slopes
from scripts.reproduce.measurements import EXAMPLES, MS, RHO
from scripts.reproduce.runs import Arm, Measurement, Run, Runs
from scripts.reproduce.studies.perturbations import (
  measured_epochs,
  no_norm_sam,
  no_norm_sgd,
)
from scripts.reproduce.studies.section import (
  Section,
  format_geometric_mean,
  format_mean,
)

# Networks that generalize differently: every combination is trained.
_GRID = {
  "batch_size": (64, 128),
  "optimizer.learning_rate": (0.03, 0.1),
  "optimizer.weight_decay": (5e-4, 5e-3),
}
_SEEDS = 4
_RANDOM_MEASURES = 100


def curvature(runs: Runs) -> Section:
  """Compare the Hessian's largest eigenvalues along training."""
  epochs = measured_epochs(runs)
  m = runs.level.fields["sam.m"]
  arms = {"SGD": no_norm_sgd(runs), "SAM": no_norm_sam(runs, m)}
  values = {
    (name, epoch): _eigenvalues(runs, arm, epoch)
    for epoch in epochs
    for name, arm in arms.items()
  }
  first = {k: eigenvalues[:, 0] for k, eigenvalues in values.items()}
  ratio = {k: e[:, 0] / np.maximum(e[:, 4], 1e-9) for k, e in values.items()}
  return Section(
    "Curvature along training",
    "Eigenvalues of the Hessian of the mean training loss of"
    f" {EXAMPLES} images, by Lanczos, for a network without batch"
    " normalization, as in the paper. Geometric means over seeds, and 95%"
    " intervals of the mean logarithm. At the first two points the paper itself"
    " finds a higher lambda_1 / lambda_5 with SAM: so the claim is about the"
    " end.",
    ("epoch", "method", "lambda_1 (nats)", "lambda_1 / lambda_5"),
    [
      (
        str(epoch),
        name,
        format_geometric_mean(first[name, epoch]),
        format_geometric_mean(ratio[name, epoch]),
      )
      for name, epoch in values
    ],
    _curvature_claims(first, ratio, epochs),
    lambda path: plots.draw_along_training(
      {n: [first[n, epoch] for epoch in epochs] for n in arms}, epochs, path
    ),
    "Largest eigenvalue of the Hessian along training, with 95% intervals.",
  )


def _curvature_claims(
  first: Mapping[tuple[str, int], np.ndarray],
  ratio: Mapping[tuple[str, int], np.ndarray],
  epochs: Sequence[int],
) -> list[Claim]:
  """Return the claims about lambda_1 and about lambda_1 / lambda_5.

  Args:
    first: lambda_1 [S] by method and epoch.
    ratio: lambda_1 / lambda_5 [S] by method and epoch.
    epochs: The start, the middle and the end of training.
  """
  papers = "18.6 against 62.9", "8.9 against 12.5", "1.0 against 24.2"
  when = "the start", "half time", "the end"
  claims = [
    lower(
      f"SAM's lambda_1 is lower than SGD's at {name}",
      "Figure 3, left",
      paper,
      np.log(first["SAM", epoch]),
      np.log(first["SGD", epoch]),
      "in ln",
    )
    for epoch, name, paper in zip(epochs, when, papers, strict=True)
  ]
  at_end = lower(
    "SAM's lambda_1 / lambda_5 is lower than SGD's at the end",
    "Figure 3, left",
    "2.6 against 11.4",
    np.log(ratio["SAM", epochs[-1]]),
    np.log(ratio["SGD", epochs[-1]]),
    "in ln",
  )
  return [*claims, at_end]


def _eigenvalues(runs: Runs, arm: Arm, epoch: int) -> np.ndarray:
  """Return the eigenvalues [S, 5] at an epoch; ones until all are measured."""
  found = [
    runs.result(Measurement("curvature", run, epoch)) for run in arm.runs
  ]
  missing = {"eigenvalues": [1.0] * 5}
  return np.array([(each or missing)["eigenvalues"] for each in found])


def prediction(runs: Runs) -> Section:
  """Score m-sharpness as a measure of generalization, by m."""
  columns: dict[str, list[float]] = {name: [] for name in _GRID}
  gaps, measured = [], []
  for values in itertools.product(*_GRID.values()):
    fields = dict(zip(_GRID, values, strict=True))
    own = {"sam.rho": 0.0, "eval_on_train": True, **fields}
    arm = runs.arm(own, sources=[None] * _SEEDS)
    gaps.append(arm.errors - runs.errors(arm.runs, "train_error_rate"))
    measured.append([_m_sharpness(runs, run) for run in arm.runs])
    for name, value in fields.items():
      columns[name].append(value)
  gap, sharpness = np.array(gaps), np.array(measured)
  by_m = {m: sharpness[..., i] for i, m in enumerate(MS)}
  scores = {m: _pseudo_values(columns, x, gap) for m, x in by_m.items()}
  random = np.random.default_rng(0)
  chance = [
    _score(columns, random.random(gap.shape), gap)
    for _ in range(_RANDOM_MEASURES)
  ]
  names = [name.rpartition(".")[2].replace("_", " ") for name in _GRID]
  return Section(
    "m-sharpness as a measure of generalization",
    "The score of the PGDL competition (section 4.1 of the paper): how much of"
    " the sign of a difference in generalization gap the sign of the difference"
    " in m-sharpness tells, for the worst pair of hyperparameters. Networks of"
    f" SGD with two batch sizes, learning rates and weight decays, {_SEEDS}"
    f" seeds of each; m-sharpness of {EXAMPLES} training images with rho ="
    f" {RHO}. Scores of all networks together, less their bias, with intervals"
    " by the jackknife over seeds;"
    f" the mean of {_RANDOM_MEASURES} random measures is {np.mean(chance):.3f}."
    " Kendall's tau, between means over seeds, has the sign: 1 where a sharper"
    " network always has the larger gap.",
    ("m", "score", *(f"tau, {name}" for name in names)),
    [
      (
        str(m),
        format_mean(np.array(scores[m]), 3),
        *(
          f"{tau:+.2f}"
          for tau in rank_correlations(
            columns, by_m[m].mean(axis=1), gap.mean(axis=1)
          ).values()
        ),
      )
      for m in MS
    ],
    _prediction_claims(scores, chance),
    lambda path: plots.draw_scores(scores, chance, path),
    "Score against m, with 95% intervals; gray: random measures.",
  )


def _prediction_claims(
  scores: Mapping[int, Sequence[float]], chance: Sequence[float]
) -> list[Claim]:
  """Return the claims about the score of m-sharpness.

  Args:
    scores: Pseudo-values [S] of the score by m.
    chance: Scores of random measures.
  """
  smallest = scores[MS[0]]
  trend = slopes(np.log2(MS).tolist(), list(scores.values()))
  return [
    lower(
      f"m-sharpness with m = {MS[0]} scores higher than a random measure",
      "Figure 3, right",
      ".03 to .05 (task 1), .14 to .17 (task 2)",
      np.full(len(smallest), np.mean(chance)),
      smallest,
      "of the entropy",
    ),
    Claim(
      "Each doubling of m lowers the score",
      "Figure 3, right",
      "falls from .05 to .03, and from .17 to .14 (figure)",
      tuple(trend.tolist()),
      "of the entropy",
    ),
  ]


def _m_sharpness(runs: Runs, run: Run) -> list[float]:
  found = runs.result(Measurement("m_sharpness", run))
  return [1.0 if found is None else found[str(m)] for m in MS]


def _score(
  columns: dict[str, list[float]], measure: np.ndarray, gap: np.ndarray
) -> float:
  """Return the score of the networks [N, S] of all seeds together."""
  num_seeds = gap.shape[1]
  repeated = {
    name: np.repeat(x, num_seeds).tolist() for name, x in columns.items()
  }
  score = generalization_score(repeated, measure.ravel(), gap.ravel())
  return float(np.nan_to_num(score))  # without differences it tells nothing


def _pseudo_values(
  columns: dict[str, list[float]], measure: np.ndarray, gap: np.ndarray
) -> list[float]:
  """Return n times the score less n - 1 times the score without each seed."""
  count = gap.shape[1]
  whole = _score(columns, measure, gap)
  return [
    count * whole
    - (count - 1)
    * _score(columns, np.delete(measure, s, 1), np.delete(gap, s, 1))
    for s in range(count)
  ]
