"""Optimized HLO of a TPU program as text -> computations and instructions."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_SHAPE = re.compile(
  r"(?P<dtype>[a-z]\w*)\[(?P<dims>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?"
)
_TILES = re.compile(r"T((?:\([\d,*]+\))+)")
_SPACE = re.compile(r"S\((\d+)\)")
_INSTRUCTION = re.compile(r"\s+(?P<root>ROOT )?%?(?P<name>[\w.-]+) = ")
_OPCODE = re.compile(r"\s*(?P<opcode>[a-z][\w-]*)\(")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Shape:
  """An array of a program, as it is in memory.

  Attributes:
    dtype: Type of the elements, such as "bf16".
    dims: Logical dimensions.
    minor_to_major: Dimensions from the one of adjacent elements outwards.
    tile: Sides of the first level of tiles, () for none. Memory holds whole
      tiles.
    space: Memory space: 0 is HBM, others are on the chip.
  """

  dtype: str
  dims: tuple[int, ...]
  minor_to_major: tuple[int, ...] = ()
  tile: tuple[int, ...] = ()
  space: int = 0

  @property
  def bytes(self) -> int:
    """Return the bytes of the elements."""
    return -(-math.prod(self.dims) * _bits(self.dtype) // 8)

  @property
  def padded_bytes(self) -> int:
    """Return the bytes of all tiles."""
    order = self.minor_to_major or range(len(self.dims))[::-1]
    sides = [self.dims[i] for i in order] or [1]
    tile = self.tile[::-1]
    sides += [1] * (len(tile) - len(sides))
    padded = (
      -(-side // of_tile) * of_tile
      for side, of_tile in zip(sides, tile, strict=False)
    )
    size = math.prod(padded) * math.prod(sides[len(tile) :])
    return -(-size * _bits(self.dtype) // 8)

  @property
  def hbm_bytes(self) -> int:
    """Return the bytes of all tiles, 0 for an array on the chip."""
    return 0 if self.space else self.padded_bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
  """An instruction of a program.

  Attributes:
    name: Its name.
    shapes: Arrays of its result; several for a tuple.
    opcode: Its operation.
    operands: Names of its operands.
    attributes: The rest of its line.
    is_root: True for the result of the computation.
  """

  name: str
  shapes: tuple[Shape, ...]
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  def called(self, attribute: str) -> str | None:
    """Return the name of the computation that an attribute names."""
    match = re.search(rf"\b{attribute}=%?([\w.-]+)", self.attributes)
    return match[1] if match else None

  @property
  def branches(self) -> list[str]:
    """Return the computations that a conditional chooses from."""
    match = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
    if match:
      return [name.strip().lstrip("%") for name in match[1].split(",")]
    names = map(self.called, ("true_computation", "false_computation"))
    return [name for name in names if name]


@dataclasses.dataclass(frozen=True)
class Computation:
  """A list of instructions; each comes after its operands."""

  name: str
  instructions: tuple[Instruction, ...]

  @functools.cached_property
  def by_name(self) -> dict[str, Instruction]:
    """Return the instructions by name."""
    return {each.name: each for each in self.instructions}

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """Return the instructions that have each instruction as an operand."""
    found: dict[str, list[Instruction]] = {}
    for each in self.instructions:
      for operand in dict.fromkeys(each.operands):
        found.setdefault(operand, []).append(each)
    return found

  @property
  def root(self) -> Instruction:
    """Return the result."""
    return next(each for each in self.instructions if each.is_root)


@dataclasses.dataclass(frozen=True)
class Program:
  """An optimized program of one device.

  Attributes:
    computations: All computations by name.
    entry: The one that runs.
    aliases: Number of results that reuse the memory of an argument.
    results: Number of results.
  """

  computations: dict[str, Computation]
  entry: Computation
  aliases: int
  results: int

  def executed(self) -> Iterator[tuple[Computation, float]]:
    """Yield computations that run one after another, and how often.

    Computations inside fusions are not among them. The branches of a
    conditional are, each as often as the others.
    """
    waiting = [(self.entry, 1.0)]
    while waiting:
      computation, times = waiting.pop()
      yield computation, times
      for each in computation.instructions:
        for name, count in self._calls(each):
          waiting.append((self.computations[name], times * count))

  def _calls(self, instruction: Instruction) -> list[tuple[str, float]]:
    """Return (computation, times) that an instruction runs."""
    if instruction.opcode == "while":
      body = instruction.called("body")
      return [(body, self.trips(instruction) or 1)] if body else []
    if instruction.opcode == "conditional":
      branches = instruction.branches
      return [(name, 1 / len(branches)) for name in branches]
    if instruction.opcode in ("call", "async-start"):
      name = instruction.called("to_apply") or instruction.called("calls")
      return [(name, 1)] if name else []
    return []

  def trips(self, loop: Instruction) -> int | None:
    """Return the trips of a loop from 0 to a constant; None for others."""
    name = loop.called("condition")
    condition = self.computations[name] if name else None
    if condition is None or condition.root.opcode != "compare":
      return None
    for operand in condition.root.operands:
      each = condition.by_name.get(operand)
      if each is not None and each.opcode == "constant":
        match = re.match(r"(\d+)\)", each.attributes)
        return int(match[1]) if match else None
    return None


def parse(text: str) -> Program:
  """Parse the text of an optimized HLO module.

  Raises:
    ValueError: It has no entry computation.
  """
  header, _, body = text.partition("\n")
  computations: dict[str, Computation] = {}
  instructions: list[Instruction] = []
  entry, name = None, ""
  for line in body.splitlines():
    if line.startswith("}"):
      computations[name] = Computation(name, tuple(instructions))
    elif match := _COMPUTATION.match(line):
      name, instructions = match["name"], []
      entry = name if match["entry"] else entry
    elif instruction := _parse_instruction(line):
      instructions.append(instruction)
  if entry is None or entry not in computations:
    raise ValueError("The text has no entry computation.")
  aliases = len(re.findall(r"(?:may|must)-alias\)", header))
  results = len(computations[entry].root.shapes)
  return Program(computations, computations[entry], aliases, results)


def parse_shapes(text: str) -> tuple[Shape, ...]:
  """Return the arrays in the text of a shape, which may be a tuple."""
  return tuple(map(_shape, _SHAPE.finditer(text)))


def _parse_instruction(line: str) -> Instruction | None:
  match = _INSTRUCTION.match(line)
  if not match:
    return None
  rest = _COMMENT.sub("", line[match.end() :])
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
  opcode = _OPCODE.match(rest, end)
  if not opcode:
    return None
  opens = opcode.end() - 1
  closes = _closing(rest, opens)
  operands = re.findall(r"%([\w.-]+)", rest[opens:closes])
  is_literal = opcode["opcode"] in ("constant", "parameter")
  return Instruction(
    name=match["name"],
    shapes=parse_shapes(rest[:end]),
    opcode=opcode["opcode"],
    operands=tuple(operands),
    attributes=rest[opens + 1 if is_literal else closes + 1 :],
    is_root=bool(match["root"]),
  )


def _closing(text: str, start: int) -> int:
  """Return the position of the parenthesis that closes that at `start`."""
  depth = 0
  for match in re.compile(r"[()]").finditer(text, start):
    depth += 1 if match[0] == "(" else -1
    if depth == 0:
      return match.start()
  return len(text)


def _shape(match: re.Match[str]) -> Shape:
  layout = match["layout"] or ""
  tiles, space = _TILES.search(layout), _SPACE.search(layout)
  order = layout.partition(":")[0]
  tile: tuple[int, ...] = ()
  if tiles:
    first = tiles[1].partition(")")[0].lstrip("(")
    tile = tuple(int(n) for n in first.split(",") if n.isdigit())
  return Shape(
    dtype=match["dtype"],
    dims=tuple(int(n) for n in match["dims"].split(",") if n),
    minor_to_major=tuple(int(n) for n in order.split(",") if n),
    tile=tile,
    space=int(space[1]) if space else 0,
  )


def _bits(dtype: str) -> int:
  """Return the bits of an element, 8 for `pred`."""
  match = re.search(r"\d+", dtype)
  return int(match[0]) if match else 8
