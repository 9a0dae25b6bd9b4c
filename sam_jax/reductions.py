"""Norms and products of trees, in float32.

Biases and the parameters of normalization are most leaves of a network and few
of its numbers. XLA compiles several kernels for each leaf of a sum, and they
were most of a training step's compile time. Here the vectors of a tree are
joined into one before they are summed.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp


def join_vectors(tree: Any) -> list[jax.Array]:
  """Return the leaves as float32, with all vectors joined into the last one.

  Trees with leaves of the same shapes give lists of the same shapes.
  """
  leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(tree)]
  vectors = [x for x in leaves if x.ndim == 1]
  others = [x for x in leaves if x.ndim != 1]
  return [*others, jnp.concatenate(vectors)] if vectors else others


def difference(a: Any, b: Any) -> list[jax.Array]:
  """Return the leaves of a - b for `norm` and `vdot`, with vectors joined."""
  pairs = zip(join_vectors(a), join_vectors(b), strict=True)
  return [x - y for x, y in pairs]


def vdot(a: Any, b: Any) -> jax.Array:
  """Return the sum of products of two trees with leaves of the same shapes."""
  # A dot product of optax.tree.vdot would need a copy of each argument.
  pairs = zip(join_vectors(a), join_vectors(b), strict=True)
  return _sum([x * y for x, y in pairs])


def norm(tree: Any, p: float = 2) -> jax.Array:
  """Return the p-norm of a tree, with a finite derivative at 0 for p = 2."""
  leaves = [jnp.abs(x) for x in join_vectors(tree)] or [jnp.zeros(())]
  if p == 2:
    total = _sum([x**2 for x in leaves])
    return jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))
  largest = jnp.max(jnp.stack([jnp.max(x, initial=0) for x in leaves]))
  if p == math.inf:
    return largest
  return largest * power_sum([divide(x, largest) for x in leaves], p) ** (1 / p)


def power_sum(tree: Any, p: float) -> jax.Array:
  """Return the sum of |x|^p over a tree."""
  return _sum([jnp.abs(x) ** p for x in join_vectors(tree)])


def divide(a: jax.Array, b: jax.Array) -> jax.Array:
  """Return a / b, and 0 where b is 0.

  Scale trees by the result of a division. XLA repeats cheaper scalar
  operations, down to the sums over all leaves, in the kernel of each leaf, and
  the program grows with the square of the depth.
  """
  return jnp.where(b == 0, 0, a) / jnp.where(b == 0, 1, b)


def _sum(leaves: list[jax.Array]) -> jax.Array:
  return sum((jnp.sum(x) for x in leaves), jnp.zeros(()))
