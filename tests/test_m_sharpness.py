"""Layouts of the examples that share a perturbation."""

import pytest

from sam_jax import m_sharpness_layout


@pytest.mark.parametrize(
  ("m", "microbatches", "devices_per_shard", "groups"),
  [
    (None, 1, 1, [[0], [1], [2], [3]]),
    (8, 1, 1, [[0], [1], [2], [3]]),
    (2, 4, 1, [[0], [1], [2], [3]]),
    (16, 1, 2, [[0, 1], [2, 3]]),
    (32, 1, 4, None),
  ],
)
def test_layout(m, microbatches, devices_per_shard, groups):
  layout = m_sharpness_layout(m, per_device_batch=8, num_devices=4)
  assert layout.microbatches == microbatches
  assert layout.devices_per_shard == devices_per_shard
  assert layout.axis_index_groups == groups
  assert layout.m == (m or 8)
  if devices_per_shard == 1:
    assert layout.sync("batch") is None
  elif groups is None:
    assert layout.sync("batch") == "batch"
  else:
    assert layout.sync("batch") == ("batch", groups)


@pytest.mark.parametrize("m", [0, -1, 3, 24, 64])
def test_layout_lists_the_values_that_fit(m):
  with pytest.raises(ValueError, match=r"m = .* can be 1, 2, 4, 8, 16, 32\."):
    m_sharpness_layout(m, per_device_batch=8, num_devices=4)


def test_a_batch_beyond_all_memory_takes_no_time():
  assert m_sharpness_layout(None, 2**31 - 1, 1).m == 2**31 - 1
