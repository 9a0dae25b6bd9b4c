"""Curvature and m-sharpness of trained networks."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from sam_jax.analysis import hessian
from sam_jax.analysis.generalization_score import (
  generalization_score,
  kendall,
  rank_correlations,
)
from sam_jax.analysis.sharpness import group_sharpness
from scripts.reproduce import small_networks
from scripts.reproduce.digits import Examples
from scripts.reproduce.small_networks import Hyperparameters
from scripts.reproduce.trained_networks import GridSearch, TrainedNetworks

LANCZOS_STEPS = 40
HYPERPARAMETERS = ("width", "learning_rate", "weight_decay")
# Every combination is a network; they generalize differently.
WIDTHS = (16, 64)
LEARNING_RATES = (0.02, 0.06, 0.2)
WEIGHT_DECAYS = (0.0, 1e-3, 5e-3)
RHO = 0.05
RANDOM_MEASURES = 100


def curvature(
  networks: TrainedNetworks, search: GridSearch
) -> dict[str, np.ndarray]:
  """Measure the Hessian of the training loss at the best networks of a search.

  Returns:
    `lambda_1` and `lambda_5`, the largest and the fifth eigenvalue, [S].
  """

  def compute():
    train = networks.splits(0.0).train
    params = small_networks.train(search.algorithm, [search.best], train)
    top = [
      top_eigenvalues(
        search.algorithm.width,
        jax.tree.map(lambda x, s=seed: x[0, s], params),
        {"image": train.images[seed], "label": train.labels[seed]},
        seed,
      )
      for seed in range(networks.num_seeds)
    ]
    return {"lambda_1": [t[0] for t in top], "lambda_5": [t[4] for t in top]}

  key = {
    "algorithm": repr(search.algorithm),
    "hyperparameters": repr(search.best),
  }
  found = networks.compute_once("curvature", key, compute)
  return {name: np.array(values) for name, values in found.items()}


def top_eigenvalues(
  width: int, params: Any, batch: dict[str, np.ndarray], seed: int
) -> list[float]:
  """Return the five largest eigenvalues of the Hessian of one network."""
  found = hessian.probe(
    lambda vector: np.asarray(_hessian_product(width, params, batch, vector)),
    sum(w.size for w in jax.tree.leaves(params)),
    LANCZOS_STEPS,
    seed,
  )
  return [each.value for each in hessian.top_eigenvalues([found], 5)]


@functools.partial(jax.jit, static_argnums=0)
def _hessian_product(width, params, batch, vector):
  """Multiply the Hessian of the mean loss by a vector; both are flat."""
  losses = small_networks.example_losses(width)
  _, unravel = ravel_pytree(params)
  gradient_fn = jax.grad(lambda w: losses(w, batch).mean())
  _, product = jax.jvp(gradient_fn, (params,), (unravel(vector),))
  return ravel_pytree(product)[0]


class Scores(NamedTuple):
  """Scores of m-sharpness as a measure of generalization.

  Attributes:
    scores: By m, jackknife pseudo-values [S]. Their mean is the score of all
      networks together (see `generalization_score`) without its bias.
    random: Scores of random measures.
    correlations: By m, Kendall's tau: over all networks, "all", and by
      hyperparameter, between means over seeds (see `rank_correlations`).
  """

  scores: dict[int, np.ndarray]
  random: np.ndarray
  correlations: dict[int, dict[str, float]]


def sharpness_scores(networks: TrainedNetworks, ms: tuple[int, ...]) -> Scores:
  """Score m-sharpness as a measure of generalization.

  Args:
    networks: The networks.
    ms: Values of m; results are in their order.
  """

  def compute():
    gap, columns, measured = _train_networks_to_score(networks, ms)
    scores = {
      str(m): _pseudo_values(columns, x, gap) for m, x in measured.items()
    }
    random = np.random.default_rng(0)
    draws = [
      _score(columns, random.random(gap.shape), gap)
      for _ in range(RANDOM_MEASURES)
    ]
    correlations = {
      str(m): {
        "all": kendall(x.ravel().tolist(), gap.ravel().tolist()),
        **rank_correlations(columns, x.mean(axis=1), gap.mean(axis=1)),
      }
      for m, x in measured.items()
    }
    return {"scores": scores, "random": draws, "correlations": correlations}

  key = {"ms": list(ms), "grid": [WIDTHS, LEARNING_RATES, WEIGHT_DECAYS, RHO]}
  found = networks.compute_once(
    "scores", {name: repr(x) for name, x in key.items()}, compute
  )
  # Saved results are sorted by name: "512" comes before "64".
  return Scores(
    {m: np.array(found["scores"][str(m)]) for m in ms},
    np.array(found["random"]),
    {m: found["correlations"][str(m)] for m in ms},
  )


def _train_networks_to_score(
  networks: TrainedNetworks, ms: Sequence[int]
) -> tuple[np.ndarray, dict[str, tuple[float, ...]], dict[int, np.ndarray]]:
  """Train with SGD and all hyperparameters on the data of one seed.

  Returns:
    Generalization gaps [N, S], hyperparameters [N] by name, and m-sharpness
    [N, S] by m.
  """
  grid = [
    Hyperparameters(learning_rate=rate, weight_decay=decay)
    for rate, decay in itertools.product(LEARNING_RATES, WEIGHT_DECAYS)
  ]
  splits = jax.tree.map(
    lambda x: np.broadcast_to(x[:1], x.shape), networks.splits(0.0)
  )
  gaps, rows = [], []
  measured: dict[int, list[np.ndarray]] = {m: [] for m in ms}
  for width in WIDTHS:
    algorithm = networks.algorithm(
      uses_sam=False, m=small_networks.BATCH, width=width
    )
    params = small_networks.train(algorithm, grid, splits.train)
    train_errors, test_errors = (
      small_networks.error_rates(width, params, examples)
      for examples in (splits.train, splits.test)
    )
    gaps.append(test_errors - train_errors)
    for m in ms:
      measured[m].append(m_sharpness(width, params, splits.train, m))
    rows += [(width, h.learning_rate, h.weight_decay) for h in grid]
  columns = dict(zip(HYPERPARAMETERS, zip(*rows, strict=True), strict=True))
  sharpness = {m: np.concatenate(values) for m, values in measured.items()}
  return np.concatenate(gaps), columns, sharpness


def m_sharpness(
  width: int, params: Any, train: Examples, m: int, rho: float = RHO
) -> np.ndarray:
  """Return the m-sharpness [G, S] of networks on their training examples.

  Args:
    width: Width of the networks.
    params: Parameters, leaves [G, S, ...].
    train: Training examples of S seeds.
    m: Number of examples that share a perturbation.
    rho: Radius of the neighborhood.
  """
  return np.asarray(_m_sharpness(width, m, params, train, rho), np.float64)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _m_sharpness(width, m, params, train, rho):
  losses = small_networks.example_losses(width)

  def one_network(params, train):
    groups = {
      "image": train.images.reshape(-1, m, train.images.shape[-1]),
      "label": train.labels.reshape(-1, m),
    }
    loss, perturbed = jax.lax.map(
      lambda group: group_sharpness(losses, params, rho, group), groups
    )
    return (perturbed - loss).mean()

  return jax.vmap(jax.vmap(one_network), in_axes=(0, None))(params, train)


def _score(columns, measure, gap) -> float:
  """Return the score of the networks [N, S] of all seeds together."""
  num_seeds = gap.shape[1]
  repeated = {
    name: np.repeat(x, num_seeds).tolist() for name, x in columns.items()
  }
  return generalization_score(repeated, measure.ravel(), gap.ravel())


def _pseudo_values(columns, measure, gap) -> list[float]:
  """Return n times the score less n - 1 times the score without each seed."""
  count = gap.shape[1]
  whole = _score(columns, measure, gap)
  return [
    count * whole
    - (count - 1)
    * _score(columns, np.delete(measure, s, 1), np.delete(gap, s, 1))
    for s in range(count)
  ]
