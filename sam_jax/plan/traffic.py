"""Bytes that instructions move between the chip and its memory."""

import dataclasses
from collections.abc import Sequence

from sam_jax.plan.hlo import Computation, Instruction, Program, Shape

# Instructions that move no bytes themselves.
_FREE = {
  "after-all",
  "bitcast",
  "call",
  "conditional",
  "constant",
  "get-tuple-element",
  "opt-barrier",
  "parameter",
  "partition-id",
  "replica-id",
  "tuple",
  "while",
}
_READS_A_PART = {"dynamic-slice", "gather", "slice"}


def traffic(
  program: Program, computation: Computation, each: Instruction
) -> tuple[int, int]:
  """Return the HBM bytes of an instruction, with and without padding."""
  if each.opcode in _FREE or each.opcode.endswith("-done"):
    return 0, 0
  if each.opcode == "async-start" or _is_allocation(each):
    return 0, 0
  name = each.called("calls")
  fused = program.computations.get(name or "")
  return (
    _moved(program, computation, each, fused, padded=True),
    _moved(program, computation, each, fused, padded=False),
  )


def _moved(
  program: Program,
  computation: Computation,
  each: Instruction,
  fused: Computation | None,
  padded: bool,
) -> int:
  if each.opcode == "fusion" and fused is not None:
    return _fusion_traffic(program, computation, each, fused, padded)
  read, written = plain_traffic(computation, each, padded)
  if each.opcode in _READS_A_PART:
    return min(read, _in_hbm(each, padded)) + written
  if each.opcode == "dynamic-update-slice":
    update = operand_shapes(computation, each)[1]
    return 2 * _size(update, padded)
  return read + written


def plain_traffic(
  computation: Computation, each: Instruction, padded: bool
) -> tuple[int, int]:
  """Return the bytes of operands and of results."""
  operands = operand_shapes(computation, each)
  results = each.shapes
  if each.opcode == "copy-start":  # (destination, source, context)
    results = results[:1]
  elif each.opcode.endswith("-start"):
    results = results[: len(results) // 2]
  read = sum(_size(shapes, padded) for shapes in operands)
  return read, _size(results, padded)


def _fusion_traffic(
  program: Program,
  computation: Computation,
  each: Instruction,
  fused: Computation,
  padded: bool,
) -> int:
  """Return the bytes of a fusion; of some operands it reads only a part."""
  total = 0
  in_place = set()
  for result, shape in zip(_results(fused), each.shapes, strict=False):
    if result is not None and result.opcode == "dynamic-update-slice":
      update = fused.by_name.get(result.operands[1])
      total += 0 if shape.space else _in_hbm(update, padded)
      in_place.add(result.operands[0])
    else:
      total += _size((shape,), padded)
  operands = operand_shapes(computation, each)
  for parameter in fused.instructions:
    if parameter.opcode != "parameter" or parameter.name in in_place:
      continue
    index = _parameter_number(parameter)
    shapes = operands[index] if index < len(operands) else ()
    if size := _size(shapes, padded):
      total += min(size, _read(program, fused, parameter.name, size, padded))
  return total


def _read(
  program: Program, fused: Computation, name: str, size: int, padded: bool
) -> int:
  """Return how much of an array of `size` bytes a fusion reads."""
  total = 0
  for user in fused.users.get(name, []):
    inner = program.computations.get(user.called("calls") or "")
    if user.opcode in _READS_A_PART:
      total += _in_hbm(user, padded)
    elif user.opcode == "fusion" and inner is not None:
      number = user.operands.index(name)
      total += sum(
        _read(program, inner, each.name, size, padded)
        for each in inner.instructions
        if each.opcode == "parameter" and _parameter_number(each) == number
      )
    else:
      return size
  return total


def _parameter_number(parameter: Instruction) -> int:
  return int(parameter.attributes.partition(")")[0])


def _results(fused: Computation) -> list[Instruction | None]:
  """Return the instructions that make the results of a fusion."""
  if fused.root.opcode != "tuple":
    return [fused.root]
  return [fused.by_name.get(name) for name in fused.root.operands]


def _in_hbm(each: Instruction | None, padded: bool) -> int:
  """Return the bytes of a part that is read from, or written to, memory."""
  shapes = (
    [dataclasses.replace(s, space=0) for s in each.shapes] if each else []
  )
  return _size(shapes, padded)


def _size(shapes: Sequence[Shape], padded: bool) -> int:
  if padded:
    return sum(shape.hbm_bytes for shape in shapes)
  return sum(0 if shape.space else shape.bytes for shape in shapes)


def operand_shapes(
  computation: Computation, each: Instruction
) -> list[tuple[Shape, ...]]:
  """Return the arrays of each operand."""
  found = map(computation.by_name.get, each.operands)
  return [operand.shapes if operand else () for operand in found]


def _is_allocation(each: Instruction) -> bool:
  return '"AllocateBuffer"' in each.attributes
