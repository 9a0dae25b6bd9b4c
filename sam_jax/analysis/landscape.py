"""The loss along directions through parameters: lines and planes.

Random directions are normalised filter by filter (Li et al., 2018,
arXiv:1712.09913): without it a network looks flat or sharp by the scale of its
weights alone, which batch norm makes meaningless.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax.analysis.objective import Objective, Params


def random_direction(params: Params, seed: int | Sequence[int]) -> Params:
  """A normal direction of which each filter is as long as that of the network.

  A filter is what an output channel, the last axis, is computed from. Biases
  and normalisation parameters, which have one axis, don't move.

  Args:
    params: The network's parameters.
    seed: Decides the direction.

  Returns:
    A tree like the parameters, float32 numpy arrays.
  """
  random = np.random.default_rng(seed)

  def direction(weight):
    if weight.ndim < 2:
      return np.zeros(weight.shape, np.float32)
    noise = random.standard_normal(weight.shape, np.float32)
    return noise * (_filter_norms(weight) / _filter_norms(noise))

  return jax.tree.map(direction, params)


def sam_direction(objective: Objective, params: Params) -> Params:
  """Where SAM with p = 2 looks: the gradient, of length 1.

  At distance rho lies the worst point of the neighbourhood of that radius, to
  first order.
  """
  _, gradient = objective.value_and_grad(params)
  norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
  return jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1), gradient)


def direction_between(start: Params, end: Params) -> Params:
  """From one network to another, which lies at distance 1.

  Raises:
    ValueError: Their parameters differ in structure or shape.
  """
  shapes = [jax.tree.map(np.shape, tree) for tree in (start, end)]
  if shapes[0] != shapes[1]:
    raise ValueError("No line joins networks of different architectures.")
  return jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), start, end)


@jax.jit
def move(params: Params, direction: Params, distance: float) -> Params:
  """Goes from parameters along a direction."""
  return jax.tree.map(lambda w, d: w + distance * d, params, direction)


def loss_at(
  objective: Objective, params: Params, *moves: tuple[Params, float]
) -> float:
  """The loss beside parameters, a point of a line or of a plane.

  Args:
    objective: Mean loss over a fixed set of examples.
    params: Where to start.
    *moves: Directions, trees like the parameters, and how far to go along each.

  Returns:
    The loss; on the host, so that no two moved copies exist at once.
  """
  for direction, distance in moves:
    params = move(params, direction, distance)
  return float(objective.value(params))


def _filter_norms(weight) -> np.ndarray:
  return np.linalg.norm(
    np.asarray(weight).reshape(-1, weight.shape[-1]), axis=0
  )
