"""A table of a network's layers, its size and its cost."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sam_jax import target

_WIDTH = 120


class Size(NamedTuple):
  """Numbers of a network.

  Attributes:
    parameters: Number of parameters.
    batch_stats: Number of running averages of batch normalization.
    flops: FLOPs of one image's forward pass as XLA counts them before it
      optimizes; a multiplication and an addition are two. None if the backend
      does not count them.
  """

  parameters: int
  batch_stats: int
  flops: float | None


def size(model: nn.Module, image_shape: Sequence[int]) -> Size:
  """Count a network without running or compiling it.

  Args:
    model: The network, from `create_model`.
    image_shape: Height, width and channels of one image.
  """
  image = jnp.zeros((1, *image_shape))
  variables = jax.eval_shape(
    lambda x: model.init({"params": jax.random.key(0)}, x, train=False), image
  )
  forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
  # The same number on every machine: on CPUs convolutions of small images are
  # products, whose zeros of padding count.
  with target.compiling_for("tpu"):
    cost = forward.lower(variables, image).cost_analysis() or {}
  return Size(
    parameters=_count(variables["params"]),
    batch_stats=_count(variables.get("batch_stats", {})),
    flops=cost.get("flops"),
  )


def model_summary(model: nn.Module, image_shape: Sequence[int]) -> str:
  """Describe a network without running or compiling it.

  Args:
    model: The network, from `create_model`.
    image_shape: Height, width and channels of one image.

  Returns:
    Linen's table down to blocks, then the numbers of `size`.
  """
  image = jnp.zeros((1, *image_shape))
  keys = {"params": jax.random.key(0)}
  table = nn.tabulate(
    model,
    keys,
    depth=2,
    column_kwargs={"overflow": "fold"},
    console_kwargs={"width": _WIDTH, "force_terminal": False},
  )(image, train=False)
  counted = size(model, image_shape)
  return "\n".join(
    [
      table.strip("\n"),
      f"Parameters: {counted.parameters:,}",
      f"Batch statistics: {counted.batch_stats:,}",
      f"FLOPs of one image: {counted.flops:,.0f}"
      if counted.flops is not None
      else "FLOPs of one image: unknown to this backend",
    ]
  )


def _count(tree: Any) -> int:
  """Return the number of values of a tree of arrays."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
