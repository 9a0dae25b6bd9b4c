"""Map functions over the devices, and place arrays on them.

This is the only file that maps functions onto devices. All code that runs on
several devices, tests included, uses `map_over_devices`.

A run of one process takes `pmap`. A run of several processes takes
`jit(shard_map)` over arrays that span all devices: there `pmap` would convert
every leaf of state and batch in Python, before and after each step. Both give
the same bits.
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
  in_axes: tuple[int | None, ...],
  out_axes: Any,
  donate_argnums: int | tuple[int, ...] = (),
  devices: Devices = None,
) -> Any:
  """Compile a function of one device for all devices.

  Args:
    fn: A function that may use collectives over `AXIS`.
    in_axes: For each argument 0 if every device has its part, leaves
      [devices, ...] as `shard` returns them, or None if all have the same.
    out_axes: 0 or None for each result in the same way; a result with None must
      be equal on all devices.
    donate_argnums: Arguments whose memory the results may reuse.
    devices: Devices to use; None for all of the run.
  """
  mesh = _mesh(devices)
  if jax.process_count() > 1 or _spans_hosts(mesh):
    return _shard_map(fn, mesh, in_axes, out_axes, donate_argnums)
  return jax.pmap(
    fn,
    axis_name=AXIS,
    in_axes=in_axes,
    out_axes=out_axes,
    donate_argnums=donate_argnums,
    devices=list(mesh.devices.flat),
  )


def _shard_map(
  fn: Callable[..., Any],
  mesh: Mesh,
  in_axes: tuple[int | None, ...],
  out_axes: Any,
  donate_argnums: int | tuple[int, ...],
) -> Any:
  """Do what `pmap` does, for arrays that span the devices of a mesh."""

  def on_device(*args):
    own = [
      x if axis is None else jax.tree.map(lambda leaf: leaf.squeeze(0), x)
      for x, axis in zip(args, in_axes, strict=True)
    ]
    results = fn(*own)
    axes = jax.tree.broadcast(out_axes, results, is_leaf=_is_none)
    return jax.tree.map(
      lambda axis, x: x if axis is None else jax.numpy.expand_dims(x, 0),
      axes,
      results,
      is_leaf=_is_none,
    )

  in_specs, out_specs = (
    jax.tree.map(_spec, axes, is_leaf=_is_none) for axes in (in_axes, out_axes)
  )
  in_shardings, out_shardings = (
    jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    for specs in (in_specs, out_specs)
  )
  return jax.jit(
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
    ),
    in_shardings=in_shardings,
    out_shardings=out_shardings,
    donate_argnums=donate_argnums,
  )


def _spec(axis: int | None) -> PartitionSpec:
  return PartitionSpec() if axis is None else PartitionSpec(AXIS)


def _is_none(axis: int | None) -> bool:
  return axis is None


def connect() -> None:
  """Connect all devices of the run.

  Collectives connect the devices that take part at their first use, within half
  a minute. Use one on all devices before the compilation of the step, which
  takes longer on some hosts than on others.
  """
  count = map_over_devices(
    lambda x: jax.lax.psum(x, AXIS), in_axes=(0,), out_axes=None
  )
  ones = np.ones(jax.local_device_count(), np.float32)
  jax.block_until_ready(count(shard(ones)))


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
  """Put one copy of a tree on every device.

  Copies start from NumPy: donating them cannot delete the source.

  Args:
    tree: Arrays, the same in all processes.
    devices: Devices to use; None for all of the run.
  """
  return _place(jax.device_get(tree), _mesh(devices), PartitionSpec())


def shard(tree: Any, devices: Devices = None) -> Any:
  """Split leaves [n, ...] of this host evenly among its devices.

  Args:
    tree: NumPy arrays, the part of this host.
    devices: Devices to use; None for all of the run.

  Returns:
    Leaves [devices, n / devices of this host, ...].
  """
  mesh = _mesh(devices)
  count = len(mesh.local_devices)
  parts = jax.tree.map(
    lambda x: np.reshape(x, (count, -1, *np.shape(x)[1:])), tree
  )
  return _place(parts, mesh, PartitionSpec(AXIS))


def fetch(tree: Any) -> Any:
  """Return the parts of this host of leaves [devices, ...], as NumPy arrays."""

  def parts(x: jax.Array) -> np.ndarray:
    shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
    return np.concatenate(jax.device_get([s.data for s in shards]))

  return jax.tree.map(parts, tree)


def memory() -> dict[str, float]:
  """Return the `MEMORY` of the fullest device, {} if JAX does not know it."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  fullest = max(stats, key=lambda s: s.get("peak_bytes_in_use", 0))
  return {name: fullest[name] for name in MEMORY if name in fullest}


def _spans_hosts(mesh: Mesh) -> bool:
  """Return True for the devices of a slice that programs are compiled for."""
  return len({device.process_index for device in mesh.devices.flat}) > 1


def _place(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
  sharding = NamedSharding(mesh, spec)
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  # `device_put` would compare each leaf among all processes.
  arrays = jax.tree.map(np.asarray, tree)
  return jax.make_array_from_process_local_data(sharding, arrays)


def _mesh(devices: Devices) -> Mesh:
  if devices is None:
    # The devices of a process have neighboring positions on the axis: its part
    # of a batch is one slice.
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
  return Mesh(np.array(devices), (AXIS,))
