"""Experiments that measure curvature and sharpness."""

import numpy as np

from scripts.reproduce import plots, sharpness_measures
from scripts.reproduce.claims import judge_lower, judge_negative, slope
from scripts.reproduce.experiments.section import (
  Section,
  format_geometric_mean,
  format_list,
  format_mean,
  rises_steadily,
)
from scripts.reproduce.sharpness_measures import (
  HYPERPARAMETERS,
  LEARNING_RATES,
  RHO,
  WEIGHT_DECAYS,
  WIDTHS,
)
from scripts.reproduce.trained_networks import TrainedNetworks

SCORED_MS = (1, 4, 16, 64, 512)


def curvature(networks: TrainedNetworks) -> Section:
  """Compare the Hessian's largest eigenvalues after training."""
  searches = {"SGD": networks.sgd(), "SAM": networks.sam()}
  found = {
    name: sharpness_measures.curvature(networks, search)
    for name, search in searches.items()
  }
  ratios = {n: f["lambda_1"] / f["lambda_5"] for n, f in found.items()}
  return Section(
    "Curvature",
    "Eigenvalues of the Hessian of the mean training loss, by Lanczos, at the"
    " networks of (a). They differ by orders of magnitude between seeds: so"
    " these are geometric means, and in parentheses 95% intervals of the mean"
    " logarithm.",
    ("method", "lambda_1 (nats)", "lambda_5 (nats)", "lambda_1 / lambda_5"),
    [
      (
        name,
        format_geometric_mean(f["lambda_1"]),
        format_geometric_mean(f["lambda_5"]),
        format_geometric_mean(ratios[name]),
      )
      for name, f in found.items()
    ],
    [
      judge_lower(
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


def prediction(networks: TrainedNetworks) -> Section:
  """Score m-sharpness as a measure of generalization, by m."""
  found = sharpness_measures.sharpness_scores(networks, SCORED_MS)
  scores, random, correlations = found
  first, last = SCORED_MS[0], SCORED_MS[-1]
  chance = np.full(len(scores[first]), np.mean(random))
  return Section(
    "m-sharpness as a measure of generalization",
    _describe_scores(found),
    (
      "measure",
      "score",
      "tau",
      *(f"tau, {n.replace('_', ' ')}" for n in HYPERPARAMETERS),
    ),
    [
      *(
        (
          f"m = {m}",
          format_mean(scores[m], 3),
          *(
            f"{correlations[m][name]:+.2f}"
            for name in ("all", *HYPERPARAMETERS)
          ),
        )
        for m in SCORED_MS
      ),
      ("random", f"{np.mean(random):.3f}", *[""] * (1 + len(HYPERPARAMETERS))),
    ],
    [
      judge_lower(
        f"A random measure scores lower than m-sharpness with m = {first}",
        "Figure 3, right",
        chance,
        scores[first],
      )
    ]
    + [
      judge_lower(
        f"Sharpness of the whole training set (m = {last}) scores lower than"
        f" m-sharpness with m = {m}",
        "Figure 3, right",
        scores[last],
        scores[m],
      )
      for m in SCORED_MS[:-1]
    ]
    + [
      judge_negative(
        "Each doubling of m lowers the score",
        "Figure 3, right",
        slope(np.log2(SCORED_MS).tolist(), list(scores.values())),
      )
    ],
    lambda path: plots.draw_scores(scores, random, path),
    "Score against m, with 95% intervals; gray: random measures.",
  )


def _describe_scores(found: sharpness_measures.Scores) -> str:
  """Describe the networks, the score, and its trend with m."""
  random, num_seeds = found.random, len(found.scores[SCORED_MS[0]])
  means = [-values.mean() for values in found.scores.values()]
  falls = "falls" if rises_steadily(means) else "does not fall"
  return (
    "The score of the PGDL competition (section 4.1 of the paper): how much of"
    " the sign of a difference in generalization gap the sign of the difference"
    " in m-sharpness tells, for the worst pair of hyperparameters. Networks of"
    f" SGD with widths {format_list(WIDTHS)}, learning rates"
    f" {format_list(LEARNING_RATES)} and weight decays"
    f" {format_list(WEIGHT_DECAYS)}, {num_seeds} seeds of each on one split of"
    f" the data; m-sharpness of the training set with rho = {RHO}. Scores of"
    " all networks together, less their bias, with intervals by the jackknife"
    f" over seeds. Of {len(random)} random measures the mean score is"
    f" {np.mean(random):.3f}, the highest {np.max(random):.3f}. The paper's"
    " scores, of larger networks, are between .03 and .17, and fall as m grows;"
    f" here the mean score {falls} steadily, and is highest with m ="
    f" {SCORED_MS[np.argmin(means)]}.\n\n"
    "The score ignores the sign: it says that m-sharpness is informative, not"
    " that flatter networks generalize better. Kendall's tau has the sign: 1"
    " where a sharper network always has the larger gap, -1 where it never"
    " has. It is over all networks, and where one hyperparameter alone differs,"
    " between means over seeds."
  )
