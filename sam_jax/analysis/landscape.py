"""The loss along directions through parameters: lines and planes.

Random directions are normalized filter by filter (Li et al., 2018,
arXiv:1712.09913). Otherwise the scale of the weights alone would make a network
look flat or sharp, and batch normalization makes that scale meaningless.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import masks
from sam_jax.analysis.objective import Objective, Params
from sam_jax.arguments import names

_INPUTS_OF_ATTENTION = ("query", "key", "value")


def random_direction(params: Params, seed: int | Sequence[int]) -> Params:
  """Draw a normal direction whose filters have the norms of the network's.

  A filter consists of the weights of one output channel. Biases, normalization
  parameters and embeddings of ViTs do not move.

  Args:
    params: Parameters of the network.
    seed: Seed of the direction.

  Returns:
    A tree like the parameters, of float32 NumPy arrays.
  """
  random = np.random.default_rng(seed)

  def direction(path, weight, is_weight):
    if weight.ndim < 2 or not is_weight:
      return np.zeros(weight.shape, np.float32)
    noise = random.standard_normal(weight.shape, np.float32)
    norms = [_filter_norms(path, w) for w in (weight, noise)]
    return noise * (norms[0] / norms[1])

  return jax.tree_util.tree_map_with_path(
    direction, params, masks.weights(params)
  )


def sam_direction(objective: Objective, params: Params) -> Params:
  """Return the direction of SAM with p = 2: the gradient, of length 1.

  The point at distance rho is, to first order, the worst one of the
  neighborhood of that radius.
  """
  _, gradient = objective.value_and_grad(params)
  norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
  return jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1), gradient)


def direction_between(start: Params, end: Params) -> Params:
  """Return the direction from one network to another, at distance 1.

  Raises:
    ValueError: Their parameters differ in structure or shape.
  """
  shapes = [jax.tree.map(np.shape, tree) for tree in (start, end)]
  if shapes[0] != shapes[1]:
    raise ValueError("No line joins networks of different architectures.")
  return jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), start, end)


@jax.jit
def move(params: Params, direction: Params, distance: float) -> Params:
  """Return the parameters at a distance along a direction."""
  return jax.tree.map(lambda w, d: w + distance * d, params, direction)


def loss_at(
  objective: Objective, params: Params, *moves: tuple[Params, float]
) -> float:
  """Return the loss at a point of a line or of a plane through parameters.

  Args:
    objective: Mean loss over a fixed set of examples.
    params: Origin of the line or plane.
    *moves: Directions, trees like the parameters, and the distance along each.

  Returns:
    The loss, a number of the host: the moved copy is gone before the next one.
  """
  for direction, distance in moves:
    params = move(params, direction, distance)
  return float(objective.value(params))


def _filter_norms(
  path: tuple[Any, ...], weight: jax.typing.ArrayLike
) -> np.ndarray:
  """Return the norm of each filter of a kernel [..., C]: [1, ..., C].

  The kernel [h, w, C, 1] of a depthwise convolution has a filter for each of
  its C input channels: [1, 1, C, 1]. The kernel [C, heads, C / heads] of an
  input of attention has one for each output of a head: [1, heads, C / heads].
  """
  weight = np.asarray(weight)
  is_depthwise = weight.ndim == 4 and weight.shape[-1] == 1
  layer = "".join(names(path)[-2:-1])
  is_of_heads = weight.ndim == 3 and layer in _INPUTS_OF_ATTENTION
  axes = (0, 1) if is_depthwise else tuple(range(weight.ndim - 1))
  axes = (0,) if is_of_heads else axes
  return np.sqrt(np.sum(np.square(weight), axis=axes, keepdims=True))
