"""Costs of a compiled program of one device: FLOPs, HBM bytes, collectives."""

import dataclasses
import math
import re
from typing import NamedTuple

from sam_jax.plan import flops as flops_lib
from sam_jax.plan.hlo import Computation, Instruction, Program
from sam_jax.plan.traffic import operand_shapes, plain_traffic, traffic

_COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)


class Collective(NamedTuple):
  """Collectives of one kind in a step.

  Attributes:
    kind: Such as "all-reduce".
    devices: Devices of a group.
    is_async: True if the program computes while it waits.
  """

  kind: str
  devices: int
  is_async: bool


@dataclasses.dataclass(frozen=True)
class Costs:
  """Costs of one execution of a program on a device.

  Costs of a conditional are the means of its branches.

  Attributes:
    flops: FLOPs of convolutions and matrix products.
    pass_flops: The same, with each pass of a precision above the default.
    hbm_bytes: Bytes between chip and memory, whole tiles: each instruction
      reads its operands and writes its results once.
    element_bytes: The same without the padding of tiles.
    collectives: Number and bytes by kind.
    copies: Number of copies from or to memory, which change a layout.
    copied_bytes: Bytes of memory that they read and write, whole tiles.
    gathered: Indices of gathers, which fetch one by one; their time is part of
      no estimate.
    loops: Trips of each loop; None where they are not a constant.
    conditionals: Number of conditionals.
    aliases: Results that reuse the memory of an argument.
    results: Number of results.
  """

  flops: float
  pass_flops: float
  hbm_bytes: int
  element_bytes: int
  collectives: dict[Collective, tuple[int, int]]
  copies: int
  copied_bytes: int
  gathered: int
  loops: list[int | None]
  conditionals: int
  aliases: int
  results: int

  def link_bytes(self, is_async: bool) -> float:
    """Return the bytes that a device sends in collectives.

    A group of n devices that reduces V bytes in rings sends 2 V (n - 1) / n
    from each of them; a collective that only gathers or scatters, half.

    Args:
      is_async: True for those during which the program computes, False for
        those that it waits for.
    """
    sent = 0.0
    for each, (_, size) in self.collectives.items():
      rounds = 2 if each.kind == "all-reduce" else 1
      if each.is_async == is_async:
        sent += rounds * size * (each.devices - 1) / each.devices
    return sent


def costs(program: Program, num_devices: int) -> Costs:
  """Add up the costs of a program.

  Args:
    program: An optimized program.
    num_devices: Devices that run it.
  """
  flops = pass_flops = 0.0
  moved = [0.0, 0.0]
  copies = copied = gathered = conditionals = 0.0
  loops: list[int | None] = []
  collectives: dict[Collective, tuple[float, float]] = {}
  for computation, times in program.executed():
    for each in computation.instructions:
      flops += times * flops_lib.in_fusions(
        program, computation, each, flops_lib.flops
      )
      pass_flops += times * flops_lib.in_fusions(
        program, computation, each, flops_lib.passes
      )
      gathered += times * flops_lib.in_fusions(
        program, computation, each, flops_lib.gathered
      )
      for i, size in enumerate(traffic(program, computation, each)):
        moved[i] += times * size
      if each.opcode == "copy":
        size = sum(plain_traffic(computation, each, padded=True))
        copies += times * bool(size)
        copied += times * size
      elif each.opcode == "while":
        loops += [program.trips(each)] * math.ceil(times)
      conditionals += times * (each.opcode == "conditional")
      if kind := _collective(each, num_devices):
        number, sent = collectives.get(kind, (0.0, 0.0))
        added = times * _collective_bytes(computation, each)
        collectives[kind] = (number + times, sent + added)
  return Costs(
    flops=flops,
    pass_flops=pass_flops,
    hbm_bytes=round(moved[0]),
    element_bytes=round(moved[1]),
    collectives={
      kind: (math.ceil(number), round(size))
      for kind, (number, size) in collectives.items()
    },
    copies=math.ceil(copies),
    copied_bytes=round(copied),
    gathered=round(gathered),
    loops=loops,
    conditionals=math.ceil(conditionals),
    aliases=program.aliases,
    results=program.results,
  )


def _collective(each: Instruction, num_devices: int) -> Collective | None:
  kind = each.opcode.removesuffix("-start")
  if kind not in _COLLECTIVES:
    return None
  groups = re.search(r"replica_groups=\{\{([\d,]*)\}", each.attributes)
  iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", each.attributes)
  devices = num_devices
  if groups:
    devices = groups[1].count(",") + 1
  elif iota:
    devices = int(iota[1])
  elif kind == "collective-permute":
    devices = 2
  return Collective(kind, devices, each.opcode.endswith("-start"))


def _collective_bytes(computation: Computation, each: Instruction) -> int:
  """Return the larger of operands and results, without padding."""
  operands = operand_shapes(computation, each)
  results = each.shapes
  if each.opcode.endswith("-start"):
    results = ()
  sent = sum(shape.bytes for shapes in operands for shape in shapes)
  return max(sent, sum(shape.bytes for shape in results))
