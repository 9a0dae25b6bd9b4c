"""Communication is read from programs, the peak from products."""

import jax
import numpy as np

from sam_jax.training.parallel import AXIS, map_over_devices
from scripts.benchmark import program_costs


def test_communication_is_read_from_the_program():
  def step(x, y):
    total, largest = jax.lax.psum((x, y), AXIS), jax.lax.pmax(y, AXIS)
    return total, largest, jax.lax.all_gather(y, AXIS)

  mapped = map_over_devices(
    step, in_axes=(0, 0), out_axes=0, devices=jax.devices()[:4]
  )
  x, y = np.ones((4, 5, 3), np.float32), np.ones((4, 8), np.int16)
  lowered = mapped.lower(x, y)
  assert program_costs.collectives_traced(lowered) == 4
  found = program_costs.collectives(lowered.compile())
  assert found.bytes == (15 * 4 + 8 * 2) + 8 * 2 + 4 * 8 * 2
  assert 3 <= found.number <= 4  # XLA may split a sum of two types


def test_groups_of_one_device_do_not_communicate():
  groups = [[0], [1]]
  mapped = map_over_devices(
    lambda x: jax.lax.psum(x, AXIS, axis_index_groups=groups),
    in_axes=(0,),
    out_axes=0,
    devices=jax.devices()[:2],
  )
  lowered = mapped.lower(np.ones((2, 3), np.float32))
  assert program_costs.collectives_traced(lowered) == 0
  assert program_costs.collectives(lowered.compile()) == (0, 0)


def test_peak_is_the_best_of_sizes_and_rounds():
  products = program_costs.matrix_products("float32")
  seconds = dict(zip(products, ([0.5, 1.0], [2.0, 4.0]), strict=True))
  assert program_costs.peak(products, seconds) == 2 * 64**3 / 2.0
