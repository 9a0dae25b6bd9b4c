"""Costs that a compiled program reports, and the peak of the machine."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_COLLECTIVE = re.compile(
  r"= (?P<shapes>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|all-to-all"
  r"|reduce-scatter|collective-permute)(?:-start)?\("
)
_KERNEL = re.compile(r"kind=k(?!Custom)\w+")
_SHAPE = re.compile(r"\b[a-z]+(?P<bits>\d+)\w*\[(?P<sizes>[\d,]*)\]")
# Groups of one device: {{0},{1}} or [2,1]<=[2], and in StableHLO 2x1.
_ALONE = re.compile(r"replica_groups=(\{\{\d+\}|\[\d+,1\])")
_TRACED = re.compile(
  r"stablehlo\.(all_reduce|all_gather|all_to_all|reduce_scatter"
  r"|collective_permute)\b"
)
_TRACED_ALONE = re.compile(r"replica_groups = dense<[^>]*> : tensor<\d+x1xi64>")
# Sides of square factors. One of them fits the caches of the machine best.
_SIDES = {"cpu": (1024, 2048, 3072)}
_SIDES_OF_ACCELERATORS = (4096, 8192, 16384)


class Collectives(NamedTuple):
  """Communication of a device in a program."""

  number: int
  bytes: int


def collectives(compiled: jax.stages.Compiled) -> Collectives:
  """Count the collectives of a compiled program and their input bytes.

  Collectives within a single device do not count.
  """
  number = size = 0
  for line in (compiled.as_text() or "").splitlines():
    match = _COLLECTIVE.search(line)
    if not match or _ALONE.search(line):
      continue
    number += 1
    for shape in _SHAPE.finditer(match["shapes"]):
      elements = 1
      for dimension in filter(None, shape["sizes"].split(",")):
        elements *= int(dimension)
      size += elements * int(shape["bits"]) // 8
  return Collectives(number, size)


def collectives_traced(lowered: jax.stages.Lowered) -> int:
  """Count the collectives of a program before XLA combines them."""
  return sum(
    bool(_TRACED.search(line)) and not _TRACED_ALONE.search(line)
    for line in lowered.as_text().splitlines()
  )


def flops(program: jax.stages.Compiled | jax.stages.Lowered) -> float:
  """Return the FLOPs of a call on one device; a loop's body counts once."""
  analysis: Any = program.cost_analysis()
  return analysis["flops"]


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
  """Return the memory of one device in addition to arguments and results."""
  analysis: Any = compiled.memory_analysis()
  return analysis.temp_size_in_bytes


def kernels(compiled: jax.stages.Compiled) -> int:
  """Count the fusions that XLA generates code for: compile time follows it.

  Calls of a library are fusions of another kind. A loop's body counts once.
  """
  return len(_KERNEL.findall(compiled.as_text() or ""))


def size_in_bytes(tree: Any) -> int:
  """Return the bytes of all arrays, or shapes, of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


class MatrixProduct:
  """A product of random square matrices on one device, ready to call.

  It has JAX's default precision, as the networks have.
  """

  def __init__(self, side: int, dtype: str):
    keys = jax.random.split(jax.random.key(0))
    self._factors = [jax.random.normal(k, (side, side), dtype) for k in keys]
    self._multiply = jax.jit(jnp.matmul)
    self.flops = 2 * side**3

  def __call__(self) -> jax.Array:
    """Multiply, and return the array to wait for."""
    return self._multiply(*self._factors)


def matrix_products(dtype: str) -> dict[str, MatrixProduct]:
  """Return products of several sizes; the fastest shows the machine's peak."""
  sides = _SIDES.get(jax.default_backend(), _SIDES_OF_ACCELERATORS)
  return {f"product of {n} x {n}": MatrixProduct(n, dtype) for n in sides}


def peak(
  products: dict[str, MatrixProduct], seconds: dict[str, list[float]]
) -> float:
  """Return the FLOP/s of the fastest product in the best of its rounds."""
  return max(p.flops / min(seconds[name]) for name, p in products.items())
