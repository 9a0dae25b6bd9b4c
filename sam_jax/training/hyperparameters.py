"""The numbers of a config as arguments of the compiled training step.

A number that is a constant of the program makes every run of a sweep compile
again. Here numbers leave the config on the way to the devices and come back as
traced values while the step is compiled, so that `build.parts` reads one config
in both cases.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sam_jax.arguments import is_traced
from sam_jax.config import schema

# Arrays by the dotted name of their field.
Hyperparameters = dict[str, jax.Array]


def extract(config: ConfigDict) -> Hyperparameters:
  """Return the arguments that stand for the numbers of a config.

  Returns:
    float32 () or int32 () for each number that is not 0, and the random key of
    the seed, uint32 [2].
  """
  numbers = schema.arguments(config)
  return {name: jnp.asarray(x) for name, x in numbers.items()} | {
    "seed": jax.random.key_data(jax.random.key(config.seed))
  }


def insert(config: ConfigDict, values: Hyperparameters) -> ConfigDict:
  """Return a config with arguments, traced or not, in place of its numbers."""
  config = config.copy_and_resolve_references()
  key = jax.random.wrap_key_data(values["seed"])
  with config.ignore_type():
    schema.update(config, values | {"seed": key})
  return config


def is_zero(value: Any) -> bool:
  """Return True for a number that is known to be 0 when a step is compiled."""
  return not is_traced(value) and value == 0
