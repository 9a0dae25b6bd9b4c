"""This host's devices: what runs on them, and what lies where."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from sam_jax.augment import pipeline
from sam_jax.augment.resize import resize_bicubic
from sam_jax.datasets import catalog
from sam_jax.training.build import create_augmentation, preprocess_fn
from sam_jax.training.step import (
  AXIS,
  Recipe,
  eval_step,
  random_stream,
  train_step,
)

MEMORY = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")


def map_train_step(
  step: Callable[[Any, Any], tuple[Any, Any]],
  devices: Sequence[jax.Device] | None = None,
):
  """Compiles a training step for several devices.

  Args:
    step: (state, batch) -> (state, metrics), as one device sees them.
    devices: Those to use; None for all of the run.

  Returns:
    The same function of batches [devices, ...]. The old state is gone after it.
  """
  return jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, None),
    donate_argnums=0,
    devices=devices,
  )


class LocalDevices:
  """The devices of this host, as one axis of `jax.pmap`."""

  def __init__(self):
    self._devices = jax.local_devices()
    mesh = Mesh(np.array(self._devices), (AXIS,))
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._sharded = NamedSharding(mesh, PartitionSpec(AXIS))

  def replicate(self, tree: Any) -> Any:
    """Puts one copy on every device; from numpy, so that donation is safe."""
    return jax.device_put(jax.device_get(tree), self._replicated)

  def shard(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Splits a batch evenly: leaves [n, ...] become [devices, n/devices...]."""
    parts = {
      name: value.reshape(len(self._devices), -1, *value.shape[1:])
      for name, value in batch.items()
    }
    return jax.device_put(parts, self._sharded)

  def memory(self) -> dict[str, float]:
    """The `MEMORY` of the fullest device; nothing where JAX can't tell."""
    stats = [device.memory_stats() or {} for device in self._devices]
    fullest = max(stats, key=lambda s: s.get("peak_bytes_in_use", 0))
    return {name: fullest[name] for name in MEMORY if name in fullest}

  def train_step_fn(self, recipe: Recipe):
    """(state, batch) -> (state, metrics), on all devices."""
    return map_train_step(functools.partial(train_step, recipe=recipe))

  def eval_step_fn(self, recipe: Recipe, spec: catalog.DatasetSpec):
    """(variables, batch) -> sums, on all devices."""
    step = functools.partial(
      eval_step, model=recipe.model, normalise=preprocess_fn(spec)
    )
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)

  def augment_fn(self, config: ConfigDict, spec: catalog.DatasetSpec):
    """(step, host batch) -> batch of images and targets on all devices."""
    augmentation = create_augmentation(config, spec)

    def augment(batch, step):
      key = jax.random.fold_in(random_stream(config.seed, "augment"), step)
      per_device = batch["label"].shape[0]
      images, targets = pipeline.augment(
        batch["image"],
        batch["label"],
        key,
        jax.lax.axis_index(AXIS) * per_device,
        augmentation=augmentation,
        axis_name=AXIS,
      )
      # Last, as in google-research/sam: it augments images of their own size.
      images = resize_bicubic(images, *spec.image_shape[:2])
      rest = {k: v for k, v in batch.items() if k not in ("image", "label")}
      return {"image": images, "target": targets, **rest}

    on_devices = jax.pmap(augment, axis_name=AXIS, in_axes=(0, None))
    # Of numpy: a scalar of jnp would be a program of its own in every step.
    return lambda step, batch: on_devices(self.shard(batch), np.int32(step))
