"""A table of a network's layers, its size and its cost."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_WIDTH = 120


def model_summary(model: nn.Module, image_shape: Sequence[int]) -> str:
  """Describe a network without running or compiling it.

  Args:
    model: The network, from `create_model`.
    image_shape: Height, width and channels of one image.

  Returns:
    Linen's table down to blocks, then the numbers of parameters and of batch
    statistics, then the FLOPs of one image's forward pass as XLA counts them
    (a multiplication and an addition are two).
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
  variables = jax.eval_shape(lambda x: model.init(keys, x, train=False), image)
  forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
  # The cost of the unoptimized program: nothing is compiled.
  cost = forward.lower(variables, image).cost_analysis() or {}
  flops = cost.get("flops")
  return "\n".join(
    [
      table.strip("\n"),
      f"Parameters: {_count(variables['params']):,}",
      f"Batch statistics: {_count(variables.get('batch_stats', {})):,}",
      f"FLOPs of one image: {flops:,.0f}"
      if flops is not None
      else "FLOPs of one image: unknown to this backend",
    ]
  )


def _count(tree: Any) -> int:
  """Return the number of values of a tree of arrays."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
