"""Curvature and m-sharpness of the trained networks."""

import functools
import itertools
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
from scripts.reproduce import training
from scripts.reproduce.laboratory import Grid, Laboratory
from scripts.reproduce.splits import Examples
from scripts.reproduce.training import Setting

LANCZOS_STEPS = 40
HYPERPARAMETERS = ("width", "learning_rate", "weight_decay")
# Networks that generalise differently: every combination of these.
WIDTHS = (16, 64)
LEARNING_RATES = (0.02, 0.06, 0.2)
WEIGHT_DECAYS = (0.0, 1e-3, 5e-3)
RHO = 0.05
RANDOM_MEASURES = 100


def curvature(lab: Laboratory, grid: Grid) -> dict[str, np.ndarray]:
  """Hessian of the training loss at the networks of a grid's best setting.

  Returns:
    `lambda_1` and `lambda_5`, the largest and the fifth eigenvalue, [S].
  """

  def compute():
    train = lab.splits(0.0).train
    params = training.train(grid.method, [grid.setting], train)
    top = [
      _top_eigenvalues(
        grid.method.width,
        jax.tree.map(lambda x, s=seed: x[0, s], params),
        {"image": train.images[seed], "label": train.labels[seed]},
        seed,
      )
      for seed in range(lab.num_seeds)
    ]
    return {"lambda_1": [t[0] for t in top], "lambda_5": [t[4] for t in top]}

  key = {"of": repr(grid.method), "setting": repr(grid.setting)}
  found = lab.get("curvature", key, compute)
  return {name: np.array(values) for name, values in found.items()}


def _top_eigenvalues(width, params, batch, seed) -> list[float]:
  """The five largest eigenvalues."""
  found = hessian.probe(
    lambda vector: np.asarray(_hessian_product(width, params, batch, vector)),
    sum(w.size for w in jax.tree.leaves(params)),
    LANCZOS_STEPS,
    seed,
  )
  return [each.value for each in hessian.top_eigenvalues([found], 5)]


@functools.partial(jax.jit, static_argnums=0)
def _hessian_product(width, params, batch, vector):
  """Hessian of the mean loss times a vector, both flat."""
  losses = training.example_losses(width)
  _, unravel = ravel_pytree(params)
  gradient_fn = jax.grad(lambda w: losses(w, batch).mean())
  _, product = jax.jvp(gradient_fn, (params,), (unravel(vector),))
  return ravel_pytree(product)[0]


class Scores(NamedTuple):
  """How well m-sharpness tells which networks generalise worse.

  Attributes:
    scores: By m, jackknife pseudo-values [S], whose mean is the score (see
      `generalization_score`) of all networks together, but for its bias.
    random: Scores of random measures.
    correlations: By m, Kendall's tau: over all networks, "all", and by
      hyperparameter, between means over seeds (see `rank_correlations`).
  """

  scores: dict[int, np.ndarray]
  random: np.ndarray
  correlations: dict[int, dict[str, float]]


def sharpness_scores(lab: Laboratory, ms: tuple[int, ...]) -> Scores:
  """Scores m-sharpness.

  Args:
    lab: Where networks are trained.
    ms: Values of m; results are in their order.
  """

  def compute():
    gap, columns, measured = _networks_to_score(lab, ms)
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
        "all": kendall(x.ravel(), gap.ravel()),
        **rank_correlations(columns, x.mean(axis=1), gap.mean(axis=1)),
      }
      for m, x in measured.items()
    }
    return {"scores": scores, "random": draws, "correlations": correlations}

  key = {"ms": list(ms), "grid": [WIDTHS, LEARNING_RATES, WEIGHT_DECAYS, RHO]}
  found = lab.get("scores", {name: repr(x) for name, x in key.items()}, compute)
  # Saved results are in the order of their names, where 64 comes after 512.
  return Scores(
    {m: np.array(found["scores"][str(m)]) for m in ms},
    np.array(found["random"]),
    {m: found["correlations"][str(m)] for m in ms},
  )


def _networks_to_score(lab, ms):
  """Trains SGD's networks of all hyperparameters on the data of one seed.

  Returns:
    Their gaps [N, S], hyperparameters [N] by name, and m-sharpness [N, S] by m.
  """
  settings = [
    Setting(learning_rate=rate, weight_decay=decay)
    for rate, decay in itertools.product(LEARNING_RATES, WEIGHT_DECAYS)
  ]
  splits = jax.tree.map(
    lambda x: np.broadcast_to(x[:1], x.shape), lab.splits(0.0)
  )
  gaps, rows, measured = [], [], {m: [] for m in ms}
  for width in WIDTHS:
    method = lab.method(uses_sam=False, m=training.BATCH, width=width)
    params = training.train(method, settings, splits.train)
    errors = functools.partial(training.error_rates, width, params)
    gaps.append(errors(splits.test) - errors(splits.train))
    for m in ms:
      measured[m].append(m_sharpness(width, params, splits.train, m))
    rows += [(width, s.learning_rate, s.weight_decay) for s in settings]
  columns = dict(zip(HYPERPARAMETERS, zip(*rows, strict=True), strict=True))
  measured = {m: np.concatenate(values) for m, values in measured.items()}
  return np.concatenate(gaps), columns, measured


def m_sharpness(
  width: int, params: Any, train: Examples, m: int, rho: float = RHO
) -> np.ndarray:
  """m-sharpness [G, S] of networks on the training examples of their seeds."""
  return np.asarray(_m_sharpness(width, m, params, train, rho), np.float64)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _m_sharpness(width, m, params, train, rho):
  losses = training.example_losses(width)

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
  """The score of the networks [N, S] of all seeds together."""
  num_seeds = gap.shape[1]
  repeated = {name: np.repeat(x, num_seeds) for name, x in columns.items()}
  return generalization_score(repeated, measure.ravel(), gap.ravel())


def _pseudo_values(columns, measure, gap) -> list[float]:
  """Jackknife: n times the score less n - 1 times that without a seed."""
  count = gap.shape[1]
  whole = _score(columns, measure, gap)
  return [
    count * whole
    - (count - 1)
    * _score(columns, np.delete(measure, s, 1), np.delete(gap, s, 1))
    for s in range(count)
  ]
