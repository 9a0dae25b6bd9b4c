"""TPU chips and slices: peaks, memory, and how chips make up hosts."""

import dataclasses
import math
import re

MIB, GIB = 2**20, 2**30

# Each page says peak, memory and bandwidth of a chip. The links of a chip are
# the "all-reduce bandwidth per Pod" over its chips; for v5p, whose page has
# none, half of the "bidirectional ICI bandwidth". libtpu 0.0.42.1 reports the
# memory that it lets a program use when one asks for too much.
_PAGES = "https://docs.cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of TPU chips.

  Attributes:
    name: Name in topologies.
    flops: Peak FLOP/s of a chip in bfloat16.
    hbm_bandwidth: Bytes/s between a chip and its memory.
    link_bandwidth: Bytes/s that all links of a chip send.
    usable_bytes: Memory of a device that programs may use.
    pod: Chips of the largest slice.
    axes: Axes of a topology.
    devices_per_chip: Devices that JAX sees in a chip.
    chips_on_largest_host: Chips of the largest slice with one host. Hosts of
      larger slices have 4.
    page: Where the numbers come from.
  """

  name: str
  flops: float
  hbm_bandwidth: float
  link_bandwidth: float
  usable_bytes: float
  pod: int
  axes: int
  devices_per_chip: int = 1
  chips_on_largest_host: int = 4
  page: str = ""


CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      *("v3", 123e12, 900e9, 340e12 / 1024, 15.48 * GIB, 1024, 2),
      devices_per_chip=2,
      page=f"{_PAGES}v3",
    ),
    Chip(
      *("v4", 275e12, 1200e9, 1.1e15 / 4096, 30.75 * GIB, 4096, 3),
      page=f"{_PAGES}v4",
    ),
    Chip(
      *("v5e", 197e12, 819e9, 51.2e12 / 256, 15.75 * GIB, 256, 2),
      chips_on_largest_host=8,
      page=f"{_PAGES}v5e",
    ),
    Chip(
      *("v5p", 459e12, 2765e9, 1200e9 / 2, 95.74 * GIB, 6144, 3),
      page=f"{_PAGES}v5p",
    ),
    Chip(
      *("v6e", 918e12, 1638e9, 102.4e12 / 256, 31.25 * GIB, 256, 2),
      chips_on_largest_host=8,
      page=f"{_PAGES}v6e",
    ),
  )
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice of a TPU pod.

  Attributes:
    name: Its topology, such as "v5e:8x8".
    chip: Its chips.
    sides: Chips along each axis.
  """

  name: str
  chip: Chip
  sides: tuple[int, ...]

  @property
  def num_devices(self) -> int:
    """Return the number of devices that JAX sees."""
    return math.prod(self.sides) * self.chip.devices_per_chip

  @property
  def num_hosts(self) -> int:
    """Return the number of hosts."""
    return math.prod(self.sides) // math.prod(self.host_sides)

  @property
  def host_sides(self) -> tuple[int, int, int]:
    """Return the chips of a host along each axis."""
    sides = (*self.sides, 1)[:3]
    if math.prod(sides) <= self.chip.chips_on_largest_host:
      return sides[0], sides[1], sides[2]
    return 2, 2, 1


def parse_topology(name: str) -> Slice:
  """Return the slice of a topology.

  Args:
    name: Chip and sides, such as "v5e:8x8" or "v4:4x4x4".

  Raises:
    ValueError: There is no such chip, or no such slice of it.
  """
  chip_name, _, sides = name.partition(":")
  if chip_name not in CHIPS:
    known = ", ".join(CHIPS)
    raise ValueError(
      f"--topology={name}: {chip_name!r} is no chip that is known here; known:"
      f" {known}. Give chip and sides: --topology=v5e:8x8."
    )
  chip = CHIPS[chip_name]
  example = "x".join("4" * chip.axes)
  if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{chip.axes - 1}}}", sides):
    raise ValueError(
      f"--topology={name}: a slice of {chip_name} has {chip.axes} sides:"
      f" --topology={chip_name}:{example}."
    )
  found = Slice(name, chip, tuple(map(int, sides.split("x"))))
  hosts = zip(found.sides, found.host_sides, strict=False)
  if any(side % of_host for side, of_host in hosts):
    raise ValueError(
      f"--topology={name}: a slice of {chip_name} is made of hosts with 2x2"
      f" chips: --topology={chip_name}:{example}."
    )
  if math.prod(found.sides) > chip.pod:
    raise ValueError(
      f"--topology={name}: the largest slice of {chip_name} has {chip.pod:,}"
      " chips."
    )
  return found
