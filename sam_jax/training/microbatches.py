"""Averages over the shards of one device, and over floats of a tree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mean_over_microbatches(
  shard_fn: Callable[[Any, Any], Any],
  batch: Any,
  count: int,
  *,
  unroll: bool,
) -> Any:
  """Run `shard_fn` on `count` equal parts of a batch, and average.

  Returns:
    The mean of floating-point results; of others, such as step counts, the
    last one.
  """
  if count == 1:
    return shard_fn(batch, 0)
  parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
  shard_fn = jax.jit(shard_fn, inline=True)  # traced once, not twice
  indices = jnp.arange(count)
  first = jax.tree.map(lambda x: x[0], (parts, indices))
  shapes = jax.eval_shape(shard_fn, *first)

  def accumulate(sums, part_and_index):
    floats, others = _partition(shard_fn(*part_and_index))
    return [s + x for s, x in zip(sums, floats, strict=True)], others

  sums, others = jax.lax.scan(
    accumulate,
    [jnp.zeros(x.shape, x.dtype) for x in _partition(shapes)[0]],
    (parts, indices),
    unroll=unroll,
  )
  means, last = (x / count for x in sums), (x[-1] for x in others)
  return jax.tree.map(lambda x: next(means if _is_float(x) else last), shapes)


def map_floats(fn: Callable[[list[Any]], list[Any]], tree: Any) -> Any:
  """Apply `fn` to the list of floating-point leaves; keep the others."""
  floats, others = map(iter, _partition(tree))
  floats = iter(fn(list(floats)))
  return jax.tree.map(lambda x: next(floats if _is_float(x) else others), tree)


def _partition(tree):
  leaves = jax.tree.leaves(tree)
  return [[x for x in leaves if _is_float(x) == want] for want in (True, False)]


def _is_float(x) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)
