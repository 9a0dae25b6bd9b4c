"""Communication of a step against the number of devices."""

from typing import Any

import jax

from sam_jax.benchmarks import peers, programs
from sam_jax.benchmarks.steps import RHO
from sam_jax.benchmarks.workload import Workload, lower_step
from sam_jax.training.step import AXIS


def measure_scaling(workload: Workload) -> list[dict[str, Any]]:
  """Compiles steps for 1, 2, 4... devices and reads what they communicate.

  Args:
    workload: What to train; its batch is that of each device.

  Returns:
    A row of each step and number of devices. Volume is what a device puts into
    collectives in a step, in copies of the parameters; FLOPs and temporary
    memory are of a device.

  Raises:
    ConfigError: The workload names something unknown.
  """
  counts = [2**k for k in range(jax.local_device_count().bit_length())]
  rows = []
  for num_devices in counts:
    whole = workload.batch * num_devices
    sam = workload.recipe(num_devices, RHO)
    recipes = {
      "SGD": workload.recipe(num_devices, 0.0),
      "SAM, m of a device": sam,
      "SAM, m of all devices": workload.recipe(num_devices, RHO, whole),
      "optax opaque": peers.with_optax_opaque(sam, RHO, AXIS),
    }
    for name, recipe in recipes.items():
      row = _measure(workload, recipe, num_devices)
      rows.append({"step": name, "devices": num_devices, **row})
  return rows


def _measure(workload, recipe, num_devices) -> dict[str, float]:
  state = jax.eval_shape(lambda: workload.create_state(recipe))
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    workload.random_batch(num_devices),
  )
  compiled = lower_step(recipe, state, batch, num_devices).compile()
  copy = programs.size_in_bytes(state.params)
  communication = programs.collectives(compiled)
  return {
    "collectives": communication.count,
    "volume": communication.bytes / copy,
    "GFLOP": programs.flops(compiled) / 1e9,
    "temporary copies": programs.temporary_bytes(compiled) / copy,
  }
