"""Worst-case sharpness by a long search with restarts.

  max_{||eps / c||_p <= rho} L(w + eps) - L(w)

with c = 1, or c = |w| elementwise for the adaptive form, as the mean over
groups of m examples. Andriushchenko et al. (ICML 2023,
https://arxiv.org/abs/2302.07011, section 3) measure it with Auto-PGD; here the
steps of the ascent shrink on a fixed schedule. `sharpness.py` has the search of
SAM itself: one step, or a few, from w.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sam_jax.analysis.objective import ExampleLosses, Params
from sam_jax.analysis.sharpness import Sharpness, mean_over_groups

# Entry of the examples that tells a group which one it is.
_NUMBER = "number"


def worst_sharpness_fn(
  example_losses: ExampleLosses,
  examples: dict[str, np.ndarray],
  m: int,
  devices: Sequence[jax.Device] | None = None,
  *,
  seed: int = 0,
  **search: Any,
) -> Callable[..., Sharpness]:
  """Return the worst-case sharpness of groups of m, a function of variables.

  Args:
    example_losses: ({"params", "batch_stats"}, batch) -> loss of each example
      [n]. Only the parameters are perturbed.
    examples: Arrays [N, ...], an entry for each of the N examples.
    m: Examples that share a perturbation; each group is on one device.
    devices: Devices to use; None for all of this host.
    seed: Seed of the restarts; a group has the same ones on any devices.
    **search: `p`, `adaptive`, `steps` and `restarts` of `highest_loss`.

  Returns:
    (variables, rho, on_groups) -> means over the N // m groups. The optional
    `on_groups` is called with a number of groups when they are done.

  Raises:
    ValueError: There are fewer than m examples, or an argument is out of range.
  """
  check_search(**search)
  numbers = np.arange(len(next(iter(examples.values()))), dtype=np.int32)

  def of_group(example_losses, variables, rho, group):
    def loss_fn(w):
      return example_losses({**variables, "params": w}, group).mean()

    params = variables["params"]
    key = jax.random.fold_in(jax.random.key(seed), group[_NUMBER][0])
    return loss_fn(params), highest_loss(loss_fn, params, rho, key, **search)

  numbered = {**examples, _NUMBER: numbers}
  return mean_over_groups(of_group, example_losses, numbered, m, devices)


def check_search(
  p: float = 2.0, adaptive: bool = False, steps: int = 20, restarts: int = 1
) -> None:
  """Check the arguments of `highest_loss`.

  Raises:
    ValueError: One is out of range.
  """
  del adaptive
  if p not in (2, math.inf):
    raise ValueError(f"p = {p:g} must be 2 or inf.")
  for name, value in (("steps", steps), ("restarts", restarts)):
    if value < 1:
      raise ValueError(f"{name} = {value} must be at least 1.")


def highest_loss(
  loss_fn: Callable[[Params], jax.Array],
  params: Params,
  rho: jax.Array | float,
  key: jax.Array,
  *,
  p: float = 2.0,
  adaptive: bool = False,
  steps: int = 20,
  restarts: int = 1,
) -> jax.Array:
  """Search the highest loss within a neighborhood.

  Projected ascent in the coordinates eps / c, along the gradient of length 1
  (p = 2) or its signs (p = inf). The length of a step falls linearly from
  2 rho to 2 rho / steps. The first search starts at w, and each further one at
  a random point: more of them never find less.

  Args:
    loss_fn: params -> loss, float32 ().
    params: The point w, a tree of arrays.
    rho: Radius of the neighborhood; may be traced.
    key: Random key of the starts.
    p: Norm of the neighborhood, 2 or inf.
    adaptive: Scale the neighborhood by |w|, elementwise.
    steps: Gradients of each search.
    restarts: Number of searches.

  Returns:
    The highest loss of all points that the searches meet, w among them.
  """
  scale = jax.tree.map(lambda w: jnp.abs(w) if adaptive else 1.0, params)

  def loss_at(u):
    moved = jax.tree.map(lambda w, c, x: w + c * x, params, scale, u)
    return loss_fn(moved)

  def ascend(state, step):
    u, highest = state
    loss, gradient = jax.value_and_grad(loss_at)(u)
    direction = _dual_vector(gradient, p)
    length = 2 * rho * (1 - step / steps)
    u = jax.tree.map(lambda x, d: x + length * d, u, direction)
    return (_project(u, rho, p), jnp.maximum(highest, loss)), None

  def search(highest, start):
    u = _start(params, rho, jax.random.fold_in(key, start), p)
    u = jax.tree.map(lambda x: jnp.where(start == 0, 0, x), u)
    (u, highest), _ = jax.lax.scan(ascend, (u, highest), jnp.arange(steps))
    return jnp.maximum(highest, loss_at(u)), None

  lowest = jnp.full((), -jnp.inf, jnp.float32)
  highest, _ = jax.lax.scan(search, lowest, jnp.arange(restarts))
  return highest


def _dual_vector(gradient: Params, p: float) -> Params:
  """Return the steepest direction of norm 1; zero for a zero gradient."""
  if p == math.inf:
    return jax.tree.map(jnp.sign, gradient)
  norm = optax.tree.norm(gradient)
  return jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1), gradient)


def _project(u: Params, rho: jax.Array | float, p: float) -> Params:
  """Return the nearest point of the neighborhood."""
  if p == math.inf:
    return jax.tree.map(lambda x: jnp.clip(x, -rho, rho), u)
  norm = optax.tree.norm(u)
  factor = jnp.where(norm > rho, rho / jnp.where(norm > 0, norm, 1), 1)
  return jax.tree.map(lambda x: factor * x, u)


def _start(
  params: Params, rho: jax.Array | float, key: jax.Array, p: float
) -> Params:
  """Draw a point of the cube (p = inf), or of the sphere (p = 2)."""
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  if p == math.inf:
    drawn = [
      rho * jax.random.uniform(k, w.shape, jnp.float32, -1, 1)
      for k, w in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)
  drawn = [
    jax.random.normal(k, w.shape, jnp.float32)
    for k, w in zip(keys, leaves, strict=True)
  ]
  factor = rho / optax.tree.norm(drawn)
  return jax.tree.unflatten(structure, [factor * x for x in drawn])
