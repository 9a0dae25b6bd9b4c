"""Measures of a network on fixed examples.

Each is a function (network, variables, seed, on_work, **options) -> `Estimate`.
`on_work` is called with the number of draws, groups or steps that are done; it
may raise, to stop. What is random depends on the seed alone. A text such as
"average:sigma=0.02,adaptive" chooses one, see `measure_names.py`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sam_jax.analysis import features, hessian
from sam_jax.analysis.average_case import average_sharpness
from sam_jax.analysis.measured_network import MeasuredNetwork, Variables
from sam_jax.analysis.monte_carlo import Estimate
from sam_jax.analysis.objective import Params

OnWork = Callable[[int], Any]


def average(
  network: MeasuredNetwork,
  variables: Variables,
  seed: int,
  on_work: OnWork,
  *,
  sigma: float = 0.01,
  adaptive: bool = False,
  normalize: bool = False,
  draws: int = 20,
) -> Estimate:
  """Return the average-case sharpness, see `average_case.py`."""
  objective = network.objective(normalize)

  def value(params: Params) -> jax.Array:
    return objective.value({**variables, "params": params})

  return average_sharpness(
    value,
    variables["params"],
    sigma,
    draws=draws,
    seed=seed,
    adaptive=adaptive,
    on_draw=on_work,
  )


def worst(
  network: MeasuredNetwork,
  variables: Variables,
  seed: int,
  on_work: OnWork,
  *,
  rho: float = 0.1,
  m: int = 64,
  p: float = 2.0,
  adaptive: bool = False,
  normalize: bool = False,
  steps: int = 20,
  restarts: int = 1,
) -> Estimate:
  """Return the worst-case sharpness, see `worst_case.py`."""
  search = {"p": p, "adaptive": adaptive, "steps": steps, "restarts": restarts}
  measure = network.worst(normalize, m, seed=seed, **search)
  return Estimate(measure(variables, rho, on_work).value)


def one_step(
  network: MeasuredNetwork,
  variables: Variables,
  seed: int,
  on_work: OnWork,
  *,
  rho: float = 0.05,
  m: int = 64,
) -> Estimate:
  """Return SAM's own m-sharpness of one ascent step, see `sharpness.py`."""
  del seed
  return Estimate(network.one_step(m)(variables, rho, on_work).value)


def trace(
  network: MeasuredNetwork,
  variables: Variables,
  seed: int,
  on_work: OnWork,
  *,
  draws: int = 20,
) -> Estimate:
  """Return the trace of the Hessian, see `hessian.trace`."""
  objective = network.objective()
  zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])

  def product(vector):
    tree = {"params": vector, "batch_stats": zeros}
    return objective.hessian_product(variables, tree)["params"]

  return hessian.trace(
    product, variables["params"], draws=draws, seed=seed, on_draw=on_work
  )


def eigenvalue(
  network: MeasuredNetwork,
  variables: Variables,
  seed: int,
  on_work: OnWork,
  *,
  steps: int = 20,
) -> Estimate:
  """Return the largest eigenvalue of the Hessian, from below."""
  try:
    probe = hessian.probe_hessian(
      network.objective(), variables, steps, seed, lambda _: on_work(1)
    )
  except ValueError:  # a product is not finite
    return Estimate(math.nan)
  return Estimate(float(probe.ritz_values[0]))


def noise(
  network: MeasuredNetwork,
  variables: Variables,
  seed: int,
  on_work: OnWork,
  *,
  relative: bool = False,
) -> Estimate:
  """Return the trace of the covariance of the gradients of single examples.

  `relative` divides it by the squared norm of the expected gradient, without
  the bias of a finite number of examples: the batch size at which noise and
  gradient are equally large. It is nan if they can't be told apart.

  Reference: McCandlish et al. (2018), https://arxiv.org/abs/1812.06162,
  section 2.2, the simple noise scale.
  """
  del seed
  objective = network.objective()
  count = objective.num_examples
  _, gradient = objective.value_and_grad(variables)
  on_work(1)
  squared = float(sum(np.vdot(g, g) for g in jax.tree.leaves(gradient)))
  mean_squared = float(objective.mean_squared_gradient(variables))
  covariance = count / (count - 1) * (mean_squared - squared)
  if not relative:
    return Estimate(covariance)
  expected = squared - covariance / count
  return Estimate(covariance / expected if expected > 0 else math.nan)


def rank(
  network: MeasuredNetwork,
  variables: Variables,
  seed: int,
  on_work: OnWork,
  *,
  variance: float = 0.99,
) -> Estimate:
  """Return the rank of the features of the last layer, see `features.py`."""
  del seed, on_work
  found = network.features(variables)
  if not np.isfinite(found).all():
    return Estimate(math.nan)
  return Estimate(float(features.feature_rank(found, variance)))
