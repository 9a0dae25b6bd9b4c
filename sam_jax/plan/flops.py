"""FLOPs of convolutions and products, and indices of gathers."""

import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from sam_jax.plan.hlo import Computation, Instruction, Program
from sam_jax.plan.traffic import operand_shapes


def in_fusions(
  program: Program,
  computation: Computation,
  each: Instruction,
  count: Callable[[Computation, Instruction], float],
) -> float:
  """Return the count of an instruction, or of those that it fuses."""
  fused = program.computations.get(each.called("calls") or "")
  if each.opcode != "fusion" or fused is None:
    return count(computation, each)
  return sum(
    in_fusions(program, fused, inner, count) for inner in fused.instructions
  )


def gathered(_: Computation, each: Instruction) -> float:
  """Return the number of indices of a gather."""
  match = re.search(r"offset_dims=\{([\d,]*)\}", each.attributes)
  if each.opcode != "gather" or not match:
    return 0
  inside = {int(i) for i in match[1].split(",") if i}
  dims = enumerate(each.shapes[0].dims)
  return math.prod(size for i, size in dims if i not in inside)


def flops(computation: Computation, each: Instruction) -> float:
  """Return the FLOPs of a convolution or product."""
  if each.opcode == "convolution":
    return _convolution_flops(computation, each)
  return _dot_flops(computation, each) if each.opcode == "dot" else 0.0


def passes(computation: Computation, each: Instruction) -> float:
  """Return the FLOPs of a convolution or product in all of its passes.

  A TPU multiplies in bfloat16: float32 operands in one pass, in three for
  precision "high", in six for "highest".
  """
  match = re.search(r"operand_precision=\{(\w+),(\w+)\}", each.attributes)
  counts = {"default": 1, "high": 3, "highest": 6}
  number = max(counts.get(name, 1) for name in match.groups()) if match else 1
  if any(
    shape.dtype == "bf16"
    for shapes in operand_shapes(computation, each)[:2]
    for shape in shapes
  ):
    number = 1
  return number * flops(computation, each)


def _dot_flops(computation: Computation, each: Instruction) -> float:
  match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
  (lhs,) = operand_shapes(computation, each)[0]
  axes = [int(i) for i in match[1].split(",") if i] if match else []
  contracted = math.prod(lhs.dims[i] for i in axes)
  return 2.0 * math.prod(each.shapes[0].dims) * contracted


def _convolution_flops(computation: Computation, each: Instruction) -> float:
  """Count products of pixels and weights, none with padding or in holes."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
  operands = operand_shapes(computation, each)
  if not labels or len(operands) < 2 or not (operands[0] and operands[1]):
    return 0.0
  image, kernel, result = operands[0][0], operands[1][0], each.shapes[0]
  places = 1
  for axis in filter(str.isdigit, labels[3]):
    places *= _places(
      image.dims[labels[1].index(axis)],
      kernel.dims[labels[2].index(axis)],
      result.dims[labels[3].index(axis)],
      _window(each.attributes, int(axis)),
    )
  batch = image.dims[labels[1].index("b")]
  batch //= _number("batch_group_count", each.attributes)
  inputs = kernel.dims[labels[2].index("i")]
  outputs = result.dims[labels[3].index("f")]
  return 2.0 * batch * inputs * outputs * places


class _Window(NamedTuple):
  stride: int = 1
  before: int = 0  # pixels of padding
  image_dilation: int = 1
  kernel_dilation: int = 1


def _window(attributes: str, axis: int) -> _Window:
  """Return how a kernel moves along an axis."""
  match = re.search(r"window=\{([^}]*)\}", attributes)
  fields = dict(
    field.split("=", 1) for field in (match[1].split() if match else [])
  )

  def value(name: str, default: str) -> str:
    values = fields.get(name, "").split("x")
    return values[axis] if axis < len(values) and values[axis] else default

  return _Window(
    int(value("stride", "1")),
    int(value("pad", "0_0").split("_")[0]),
    int(value("lhs_dilate", "1")),
    int(value("rhs_dilate", "1")),
  )


@functools.cache
def _places(image: int, kernel: int, result: int, window: _Window) -> int:
  """Count (result, weight) pairs along an axis that meet a pixel."""
  end = (image - 1) * window.image_dilation + 1
  count = 0
  for weight in range(kernel):
    offset = weight * window.kernel_dilation - window.before
    for place in range(result):
      position = place * window.stride + offset
      if 0 <= position < end and position % window.image_dilation == 0:
        count += 1
  return count


def _number(name: str, attributes: str) -> int:
  match = re.search(rf"{name}=(\d+)", attributes)
  return int(match[1]) if match else 1
