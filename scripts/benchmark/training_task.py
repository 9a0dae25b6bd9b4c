"""The training step that benchmarks measure: a network on random images."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.training import build, parallel
from sam_jax.training import step as step_lib
from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts
from scripts.benchmark import optax_sam

RHO = 0.05  # of SAM's steps


@dataclasses.dataclass(frozen=True)
class TrainingTask:
  """A network, the size of its batches, and its devices.

  Attributes:
    model: Name of the network.
    dataset: Data set whose image shape and classes the random batch has.
    batch: Images on each device.
    dtype: Type of the activations.
    remat: Compute activations again in the backward pass.
    devices: Number of devices, the first ones of this host.
  """

  model: str = "wrn28_10"
  dataset: str = "cifar10"
  batch: int = 8
  dtype: str = "float32"
  remat: bool = False
  devices: int = 1

  def config(self, rho: float, m: int | None = None) -> ConfigDict:
    """Return the valid config of SAM with `rho`, or of SGD with 0.

    Raises:
      ConfigError: A name is unknown, or m does not divide the batch.
    """
    config = default_config()
    config.dataset.name, config.model.name = self.dataset, self.model
    config.model.dtype, config.model.remat = self.dtype, self.remat
    config.batch_size = self.batch * self.devices
    config.sam.rho, config.sam.m = rho, m
    return build.validate(config, self.devices)

  def parts(self, rho: float, m: int | None = None) -> Parts:
    """Return the parts of the training step of `config`."""
    config = self.config(rho, m)
    return build.parts(config, build.dataset_spec(config), 1000, self.devices)

  def create_state(self, parts: Parts) -> TrainState:
    """Return the state at step 0, a copy on every device."""
    state = step_lib.create_state(parts, self._spec.image_shape, seed=0)
    return parallel.replicate(state, self._devices)

  def state_shapes(self, parts: Parts) -> TrainState:
    """Return the shapes and types of the state; nothing is computed."""
    return jax.eval_shape(
      lambda: step_lib.create_state(parts, self._spec.image_shape, seed=0)
    )

  def create_batch(self) -> dict[str, jax.Array]:
    """Return normal images and random targets, on the devices."""
    spec, size = self._spec, self.batch * self.devices
    generator = np.random.default_rng(0)
    images = generator.standard_normal((size, *spec.image_shape))
    labels = generator.integers(spec.num_classes, size=size)
    targets = np.eye(spec.num_classes, dtype=np.float32)[labels]
    batch = {"image": images.astype(np.float32), "target": targets}
    return jax.block_until_ready(parallel.shard(batch, self._devices))

  def lower_step(
    self,
    parts: Parts,
    state: TrainState,
    calls: int = 1,
    train_step: Callable[..., Any] = step_lib.train_step,
    devices: Sequence[jax.Device] | None = None,
  ) -> jax.stages.Lowered:
    """Trace a training step.

    Args:
      parts: The parts of the step.
      state: The state, or its shapes.
      calls: Calls that make up one step of SAM.
      train_step: (state, batch, parts) -> (state, metrics).
      devices: Devices to compile for, if not those of this host.
    """
    step: optax_sam.TrainStep
    step = functools.partial(train_step, parts=parts)
    if calls > 1:
      step = optax_sam.in_several_calls(step, calls)
    spec, leading = self._spec, (self.devices, self.batch)
    shapes = {"image": spec.image_shape, "target": (spec.num_classes,)}
    batch = {
      name: jax.ShapeDtypeStruct((*leading, *shape), np.float32)
      for name, shape in shapes.items()
    }
    program = parallel.map_train_step(step, devices or self._devices)
    return program.lower(state, batch)

  @property
  def _devices(self) -> list[jax.Device]:
    return jax.local_devices()[: self.devices]

  @property
  def _spec(self) -> DatasetSpec:
    return build.dataset_spec(self.config(0.0))
