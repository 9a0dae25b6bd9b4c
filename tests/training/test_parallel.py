"""The memory that devices tell of."""

import jax

from sam_jax.training.parallel import LocalDevices


class FakeDevice:
  """A device that tells of its memory as GPUs and TPUs do."""

  def __init__(self, stats):
    self._stats = stats

  def memory_stats(self):
    return self._stats


def memory_of(*stats):
  devices = LocalDevices()
  devices._devices = [FakeDevice(s) for s in stats]
  return devices.memory()


def test_memory_is_that_of_the_fullest_device():
  stats = [
    {"bytes_in_use": 5, "peak_bytes_in_use": peak, "num_allocs": 1}
    for peak in (7, 9, 8)
  ]
  assert memory_of(*stats) == {"bytes_in_use": 5, "peak_bytes_in_use": 9}
  assert memory_of({"bytes_limit": 3}, None) == {"bytes_limit": 3}


def test_nothing_where_nothing_is_known():
  assert memory_of(None, {}) == {}
  assert jax.default_backend() == "cpu"
  assert LocalDevices().memory() == {}
