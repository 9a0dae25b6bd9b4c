"""Map functions over the devices, and place arrays on them.

This is the only file that maps functions onto devices. All code that runs on
several devices, tests included, uses `map_over_devices`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"  # the devices of a run, over all hosts
MEMORY = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")

Devices = Sequence[jax.Device] | None


def map_over_devices(
  fn: Callable[..., Any],
  *,
  in_axes: Any,
  out_axes: Any,
  donate_argnums: int | tuple[int, ...] = (),
  devices: Devices = None,
) -> Any:
  """Compile a function of one device for all devices.

  Args:
    fn: A function that may use collectives over `AXIS`.
    in_axes: For each argument 0 if every device has its part, leaves
      [devices, ...] of this host, or None if all have the same.
    out_axes: 0 or None for each result in the same way; a result with None must
      be equal on all devices.
    donate_argnums: Arguments whose memory the results may reuse.
    devices: Devices to use; None for all of the run.
  """
  return jax.pmap(
    fn,
    axis_name=AXIS,
    in_axes=in_axes,
    out_axes=out_axes,
    donate_argnums=donate_argnums,
    devices=devices,
  )


def connect() -> None:
  """Connect all devices of the run.

  Collectives connect the devices that take part at their first use, within half
  a minute. Use one on all devices before the compilation of the step, which
  takes longer on some hosts than on others.
  """
  count = map_over_devices(
    lambda x: jax.lax.psum(x, AXIS), in_axes=0, out_axes=None
  )
  jax.block_until_ready(count(np.ones(jax.local_device_count(), np.float32)))


def map_train_step(
  step: Callable[..., tuple[Any, Any]],
  devices: Devices = None,
  *,
  constants: int = 0,
) -> Any:
  """Compile (state, batch, *constants) -> (state, metrics) for all devices.

  The state is replicated, and its memory becomes that of the new state.

  Args:
    step: The step of one device.
    devices: Devices to use; None for all of the run.
    constants: Number of further arguments, the same for all devices.
  """
  return map_over_devices(
    step,
    in_axes=(None, 0, *[None] * constants),
    out_axes=(None, None),
    donate_argnums=0,
    devices=devices,
  )


def map_eval_step(
  step: Callable[[Any, Any], Any], devices: Devices = None
) -> Any:
  """Compile (variables, batch) -> sums for all devices."""
  return map_over_devices(
    step, in_axes=(None, 0), out_axes=None, devices=devices
  )


def replicate(tree: Any, devices: Devices = None) -> Any:
  """Put one copy of a tree on every device of this host.

  Copies start from NumPy: donating them cannot delete the source.
  """
  return jax.device_put(
    jax.device_get(tree), NamedSharding(_mesh(devices), PartitionSpec())
  )


def shard(tree: Any, devices: Devices = None) -> Any:
  """Split leaves [n, ...] evenly into [devices, n / devices, ...]."""
  mesh = _mesh(devices)
  parts = jax.tree.map(
    lambda x: np.reshape(x, (mesh.size, -1, *np.shape(x)[1:])), tree
  )
  return jax.device_put(parts, NamedSharding(mesh, PartitionSpec(AXIS)))


def memory() -> dict[str, float]:
  """Return the `MEMORY` of the fullest device, {} if JAX does not know it."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  fullest = max(stats, key=lambda s: s.get("peak_bytes_in_use", 0))
  return {name: fullest[name] for name in MEMORY if name in fullest}


def _mesh(devices: Devices) -> Mesh:
  return Mesh(np.array(devices or jax.local_devices()), (AXIS,))
