"""Made-up results of all experiments; nothing is trained."""

import numpy as np

from scripts.reproduce import sharpness_measures
from scripts.reproduce.experiments.sharpness import SCORED_MS
from scripts.reproduce.trained_networks import TrainedNetworks


class MadeUpNetworks(TrainedNetworks):
  """Errors that favor SAM."""

  def compute_once(self, name, key, compute):
    del compute
    return super().compute_once(name, key, lambda: self._make_up(name, key))

  def _make_up(self, name, key):
    wiggle = np.random.default_rng(0).random(self.num_seeds)
    if name == "grid search":
      count = key["grid"].count("Hyperparameters(")
      base = 0.1 if "uses_sam=False" in key["algorithm"] else 0.05
      rows = (base + 0.01 * wiggle) * np.ones((count, 1))
      return dict.fromkeys(("train", "validation", "test"), rows.tolist())
    if name == "curvature":
      return dict.fromkeys(("lambda_1", "lambda_5"), (1 + wiggle).tolist())
    ms = [str(m) for m in SCORED_MS]
    taus = dict.fromkeys(("all", *sharpness_measures.HYPERPARAMETERS), -0.5)
    return {
      "scores": {m: (wiggle + i).tolist() for i, m in enumerate(ms)},
      "random": wiggle.tolist(),
      "correlations": dict.fromkeys(ms, taus),
    }
