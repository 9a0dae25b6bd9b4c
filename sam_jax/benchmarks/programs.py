"""What a compiled program tells about itself."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sam_jax.benchmarks.timing import interleave, spread

_COLLECTIVE = re.compile(
  r"= (?P<shapes>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|all-to-all"
  r"|reduce-scatter|collective-permute)(?:-start)?\("
)
_SHAPE = re.compile(r"\b[a-z]+(?P<bits>\d+)\w*\[(?P<sizes>[\d,]*)\]")


class Collectives(NamedTuple):
  """Communication of a device in a program."""

  count: int
  bytes: int


def collectives(compiled: Any) -> Collectives:
  """Counts the collectives of a compiled program, and the bytes they take in.

  Args:
    compiled: What `jitted.lower(...).compile()` returns.
  """
  count = size = 0
  for match in _COLLECTIVE.finditer(compiled.as_text()):
    count += 1
    for shape in _SHAPE.finditer(match["shapes"]):
      elements = 1
      for dimension in filter(None, shape["sizes"].split(",")):
        elements *= int(dimension)
      size += elements * int(shape["bits"]) // 8
  return Collectives(count, size)


def flops(compiled: Any) -> float:
  """FLOPs of one call on one device; the body of a loop counts once."""
  return compiled.cost_analysis()["flops"]


def temporary_bytes(compiled: Any) -> int:
  """Memory of one device beside arguments and results."""
  return compiled.memory_analysis().temp_size_in_bytes


def size_in_bytes(tree: Any) -> int:
  """Bytes of all arrays, or shapes, of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@functools.cache
def matmul_peak(dtype: str) -> float:
  """FLOP/s of this device in a large matrix product, measured.

  Args:
    dtype: Of the factors. The product is at JAX's default precision, as the
      networks are.
  """
  side = 2048 if jax.default_backend() == "cpu" else 8192
  factor = jnp.ones((side, side), dtype)
  product = jax.jit(jnp.matmul)
  seconds = interleave({"product": lambda: product(factor, factor)}, rounds=5)
  return 2 * side**3 / spread(seconds["product"]).median
