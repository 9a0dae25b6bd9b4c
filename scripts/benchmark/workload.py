"""What the benchmarks train: a network on random images."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sam_jax.config.schema import default_config, validate_config
from sam_jax.training import step as step_lib
from sam_jax.training.build import create_recipe, input_spec
from sam_jax.training.parallel import map_train_step
from scripts.benchmark import peers


@dataclasses.dataclass(frozen=True)
class Workload:
  """A network, the images of a device, and how many devices there are.

  Attributes:
    model: Name of the network.
    dataset: Gives the shape of images and the number of classes.
    batch: Images of a device.
    dtype: Of the activations.
    remat: Whether activations are computed again in the backward pass.
    devices: How many of this host's.
  """

  model: str = "wrn28_10"
  dataset: str = "cifar10"
  batch: int = 8
  dtype: str = "float32"
  remat: bool = False
  devices: int = 1

  def config(self, rho: float, m: int | None = None) -> ConfigDict:
    """Returns the config of SAM with `rho`, or of SGD with 0.

    Raises:
      ConfigError: A name is unknown, or m does not divide the batch.
    """
    config = default_config()
    config.dataset.name, config.model.name = self.dataset, self.model
    config.model.dtype, config.model.remat = self.dtype, self.remat
    config.batch_size = self.batch * self.devices
    config.sam.rho, config.sam.m = rho, m
    validate_config(config, self.devices)
    return config

  def recipe(self, rho: float, m: int | None = None) -> step_lib.Recipe:
    """Returns what a training step of `config` does."""
    config = self.config(rho, m)
    return create_recipe(config, input_spec(config), 1000, self.devices)

  def create_state(self, recipe: step_lib.Recipe) -> Any:
    """Initialises the state of a run."""
    return step_lib.create_state(recipe, self._spec().image_shape)

  def state_shapes(self, recipe: step_lib.Recipe) -> Any:
    """Shapes and types of the state."""
    return jax.eval_shape(lambda: self.create_state(recipe))

  def random_batch(self) -> dict[str, np.ndarray]:
    """Normal images float32 [devices, batch, H, W, C] and random targets."""
    spec, leading = self._spec(), (self.devices, self.batch)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((*leading, *spec.image_shape))
    labels = generator.integers(spec.num_classes, size=leading)
    targets = np.eye(spec.num_classes, dtype=np.float32)[labels]
    return {"image": images.astype(np.float32), "target": targets}

  def lower_step(
    self, recipe: step_lib.Recipe, state: Any, calls: int = 1
  ) -> jax.stages.Lowered:
    """Traces a training step.

    Args:
      recipe: Of this workload.
      state: The state, or its shapes.
      calls: How many calls make up one step of SAM.
    """
    step = functools.partial(step_lib.train_step, recipe=recipe)
    if calls > 1:
      step = peers.in_several_calls(step, calls)
    devices = jax.local_devices()[: self.devices]
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.random_batch()
    )
    return map_train_step(step, devices).lower(state, shapes)

  def _spec(self) -> Any:
    return input_spec(self.config(0.0))
