"""What the benchmarks train: a network on random images."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sam_jax.training import step as step_lib
from sam_jax.training.config import default_config, validate_config
from sam_jax.training.recipe import create_recipe, input_spec


@dataclasses.dataclass(frozen=True)
class Workload:
  """A network and the images of one device.

  Attributes:
    model: Name of the network.
    dataset: Gives the shape of images and the number of classes.
    batch: Images of a device.
    dtype: Of the activations.
    remat: Whether activations are computed again in the backward pass.
  """

  model: str = "wrn28_10"
  dataset: str = "cifar10"
  batch: int = 8
  dtype: str = "float32"
  remat: bool = False

  def config(
    self, num_devices: int, rho: float, m: int | None = None
  ) -> ConfigDict:
    """Returns the config of SAM with `rho`, or of SGD with 0.

    Raises:
      ConfigError: A name is unknown, or m does not divide the batch.
    """
    config = default_config()
    config.dataset.name, config.model.name = self.dataset, self.model
    config.model.dtype, config.model.remat = self.dtype, self.remat
    config.batch_size = self.batch * num_devices
    config.sam.rho, config.sam.m = rho, m
    validate_config(config, num_devices)
    return config

  def recipe(
    self, num_devices: int, rho: float, m: int | None = None
  ) -> step_lib.Recipe:
    """Returns what a training step of `config` does."""
    config = self.config(num_devices, rho, m)
    return create_recipe(config, input_spec(config), 1000, num_devices)

  def create_state(self, recipe: step_lib.Recipe) -> Any:
    """Initialises the state of a run."""
    return step_lib.create_state(recipe, self._spec().image_shape)

  def random_batch(self, num_devices: int) -> dict[str, np.ndarray]:
    """Normal images float32 [devices, batch, H, W, C] and random targets."""
    spec, leading = self._spec(), (num_devices, self.batch)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((*leading, *spec.image_shape))
    labels = generator.integers(spec.num_classes, size=leading)
    targets = np.eye(spec.num_classes, dtype=np.float32)[labels]
    return {"image": images.astype(np.float32), "target": targets}

  def _spec(self) -> Any:
    return input_spec(self.config(1, 0.0))


def lower_step(
  recipe: step_lib.Recipe, state: Any, batch: Any, num_devices: int
) -> Any:
  """Traces a training step for the first `num_devices` devices.

  Args:
    recipe: Of a run on that many devices.
    state: The state, or its shapes.
    batch: The batch, leaves [devices, ...], or its shapes.
    num_devices: How many devices.
  """
  mapped = jax.pmap(
    functools.partial(step_lib.train_step, recipe=recipe),
    axis_name=step_lib.AXIS,
    in_axes=(None, 0),
    out_axes=(None, None),
    donate_argnums=0,
    devices=jax.local_devices()[:num_devices],
  )
  return mapped.lower(state, batch)
