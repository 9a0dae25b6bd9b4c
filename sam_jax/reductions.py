"""Norms and products of trees, in float32.

Biases and the parameters of normalization are most leaves of a network and few
of its numbers. On CPUs XLA compiles several kernels for each leaf of a sum, and
they were most of a training step's compile time: there, the vectors of a tree
are joined into one before they are summed. Elsewhere nobody has seen a gain,
and XLA would gather sharded vectors.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from sam_jax import target
from sam_jax.arguments import is_sharded


def join_vectors(*trees: Any) -> list[list[jax.Array]]:
  """Return the leaves as float32; on CPUs, vectors are joined into the last.

  Vectors whose type holds a sharding are not joined: JAX refuses to.

  Args:
    *trees: Trees with leaves of the same shapes.

  Returns:
    For each tree a list of arrays; the lists have the same shapes.
  """
  leaves = [
    [x.astype(jnp.float32) for x in jax.tree.leaves(tree)] for tree in trees
  ]
  is_joined = [
    all(x.ndim == 1 and not is_sharded(x) for x in row)
    for row in zip(*leaves, strict=True)
  ]
  if target.platform() != "cpu" or not any(is_joined):
    return leaves
  return [
    [
      *itertools.compress(own, (not joined for joined in is_joined)),
      jnp.concatenate(list(itertools.compress(own, is_joined))),
    ]
    for own in leaves
  ]


def difference(a: Any, b: Any) -> list[jax.Array]:
  """Return the leaves of a - b for `norm`, with vectors joined."""
  pairs = zip(*join_vectors(a, b), strict=True)
  return [x - y for x, y in pairs]


def vdot(a: Any, b: Any) -> jax.Array:
  """Return the sum of products of two trees with leaves of the same shapes."""
  # A dot product of optax.tree.vdot would need a copy of each argument.
  pairs = zip(*join_vectors(a, b), strict=True)
  return _sum([x * y for x, y in pairs])


def vdot_of_difference(a: Any, b: Any, c: Any) -> jax.Array:
  """Return the sum of products of a - b and c, see `vdot`."""
  triples = zip(*join_vectors(a, b, c), strict=True)
  return _sum([(x - y) * z for x, y, z in triples])


def norm(tree: Any, p: float = 2) -> jax.Array:
  """Return the p-norm of a tree, with a finite derivative at 0 for p = 2."""
  leaves = [jnp.abs(x) for x in join_vectors(tree)[0]] or [jnp.zeros(())]
  if p == 2:
    total = _sum([x**2 for x in leaves])
    return jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))
  largest = jnp.max(jnp.stack([jnp.max(x, initial=0) for x in leaves]))
  if p == math.inf:
    return largest
  return largest * power_sum([divide(x, largest) for x in leaves], p) ** (1 / p)


def power_sum(tree: Any, p: float) -> jax.Array:
  """Return the sum of |x|^p over a tree."""
  return _sum([jnp.abs(x) ** p for x in join_vectors(tree)[0]])


def divide(a: jax.Array, b: jax.Array) -> jax.Array:
  """Return a / b, and 0 where b is 0.

  Scale trees by the result of a division. XLA repeats cheaper scalar
  operations, down to the sums over all leaves, in the kernel of each leaf, and
  the program grows with the square of the depth.
  """
  return jnp.where(b == 0, 0, a) / jnp.where(b == 0, 1, b)


def _sum(leaves: list[jax.Array]) -> jax.Array:
  return sum((jnp.sum(x) for x in leaves), jnp.zeros(()))
