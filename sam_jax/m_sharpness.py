"""Layout of the examples that share a perturbation, over the devices.

m-sharpness is section 4.1 of the SAM paper (arXiv:2010.01412).
"""

import math
from typing import NamedTuple

from sam_jax import wording


class MSharpnessLayout(NamedTuple):
  """Layout of the examples that share a perturbation, over the devices.

  If `microbatches > 1`, each device computes several perturbations. If
  `devices_per_shard > 1`, adjacent devices share a perturbation. At most one of
  the two is greater than 1.
  """

  m: int  # examples that share a perturbation
  microbatches: int  # perturbations on each device
  devices_per_shard: int  # devices that share a perturbation
  num_devices: int

  @property
  def axis_index_groups(self) -> list[list[int]] | None:
    """Return the groups of devices that share a perturbation.

    None: all devices of the axis share one.
    """
    size = self.devices_per_shard
    if size == self.num_devices:
      return None
    return [
      list(range(start, start + size))
      for start in range(0, self.num_devices, size)
    ]

  def sync(self, axis_name: str) -> str | tuple[str, list[list[int]]] | None:
    """Return the `sync` argument of `sharpness_aware` for this layout."""
    if self.devices_per_shard == 1:
      return None
    groups = self.axis_index_groups
    return axis_name if groups is None else (axis_name, groups)


def m_sharpness_layout(
  m: int | None, per_device_batch: int, num_devices: int
) -> MSharpnessLayout:
  """Lay out the shards of m examples over the devices.

  Args:
    m: Number of examples that share one perturbation. None: all examples of a
      device, as in the official release.
    per_device_batch: Examples of a step on each device.
    num_devices: Devices of the step, over all hosts.

  Returns:
    The layout.

  Raises:
    ValueError: m neither divides the batch of a device nor is a multiple of it
      that divides the global batch. The message lists the values that do.
  """
  m = per_device_batch if m is None else m
  valid = _divisors(per_device_batch)
  valid += [per_device_batch * k for k in _divisors(num_devices)[1:]]
  if m not in valid:
    raise ValueError(
      f"m = {m} does not fit a batch of"
      f" {wording.count(per_device_batch, 'example')} on each of"
      f" {wording.count(num_devices, 'device')}; m can be"
      f" {', '.join(map(str, valid))}."
    )
  if m <= per_device_batch:
    return MSharpnessLayout(m, per_device_batch // m, 1, num_devices)
  return MSharpnessLayout(m, 1, m // per_device_batch, num_devices)


def _divisors(n: int) -> list[int]:
  """Return the divisors of a number, ascending."""
  small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
  return sorted({*small, *(n // d for d in small)})
