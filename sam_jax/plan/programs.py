"""The programs of a run, traced for the devices of a slice."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sam_jax import target
from sam_jax.datasets import catalog
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.training import (
  build,
  hyperparameters,
  input_pipeline,
  loop,
  parallel,
)
from sam_jax.training.step import create_state

SAM, SGD, AUGMENT = "sam", "sgd", "augment"

# Type and dimensions of arrays by what they are for.
Arrays = dict[str, list[tuple[str, tuple[int, ...]]]]


def programs_of(config: ConfigDict) -> list[str]:
  """Return the programs to compare: SGD is the same config without SAM."""
  if config.sam.rho == 0:
    return [SGD, AUGMENT]
  return [SAM, SGD, AUGMENT]


def lower(
  program: str, config: ConfigDict, devices: Sequence[jax.Device]
) -> tuple[jax.stages.Lowered, Arrays]:
  """Trace a program for TPUs.

  Args:
    program: One of `programs_of`.
    config: A valid config.
    devices: The devices of a slice.

  Returns:
    The program, and the arrays that a device holds while it runs.
  """
  spec = build.dataset_spec(config)
  if program == SGD:
    config = without_sam(config)
  with target.compiling_for("tpu"):
    augment, arguments = _augmentation(config, spec, devices)
    if program == AUGMENT:
      batch = raw_batch(config, spec, len(devices))
      return augment.lower(*arguments), {"batch": _describe(batch)}
    return _lower_step(
      config, spec, devices, jax.eval_shape(augment, *arguments)
    )


def without_sam(config: ConfigDict) -> ConfigDict:
  """Return the config whose steps descend along the plain gradient."""
  config = config.copy_and_resolve_references()
  default = build.schema.default_config().sam
  changed = ("method", "options", "every", "ascent_steps", "ascent_fraction")
  for name in ("schedule", "rho_min", *changed):
    config.sam[name] = default[name]
  config.sam.rho = 0.0
  return config


def _augmentation(
  config: ConfigDict, spec: DatasetSpec, devices: Sequence[jax.Device]
) -> tuple[Any, tuple[Any, ...]]:
  """Return the program that makes a batch for a step, and its arguments."""
  program = parallel.map_over_devices(
    input_pipeline.augment_fn(config, spec),
    in_axes=(0, None, None),
    out_axes=0,
    devices=devices,
  )
  key = jax.eval_shape(lambda: input_pipeline.augmentation_key(config))
  batch = raw_batch(config, spec, len(devices))
  return program, (batch, np.int32(0), key)


def _lower_step(
  config: ConfigDict,
  spec: DatasetSpec,
  devices: Sequence[jax.Device],
  batch: Any,
) -> tuple[jax.stages.Lowered, Arrays]:
  steps_per_epoch = steps_in_epoch(config, spec) or 1
  parts = build.parts(config, spec, steps_per_epoch, len(devices))
  state = jax.eval_shape(
    lambda: create_state(parts, spec.image_shape, config.seed)
  )
  step = loop.step_of(config, spec, steps_per_epoch, len(devices))
  numbers = _shapes(hyperparameters.extract(config))
  program = parallel.map_train_step(step, devices, constants=1)
  arrays = {
    "parameters": state.params,
    "batch statistics": state.batch_stats,
    "optimizer": state.opt_state,
    "moving averages": state.ema,
    "SAM's state": state.sam_state,
  }
  described = {name: _describe(tree) for name, tree in arrays.items()}
  return program.lower(state, batch, numbers), described


def raw_batch(
  config: ConfigDict, spec: DatasetSpec, num_devices: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Return the shapes of a batch as the host sends it to all devices."""
  shape = spec.stored_shape or spec.image_shape
  leading = (num_devices, config.batch_size // num_devices)
  label = jax.ShapeDtypeStruct(leading, np.int32)
  batch = {
    "image": jax.ShapeDtypeStruct((*leading, *shape), np.uint8),
    "label": label,
  }
  has_noise = config.dataset.label_noise.rate or config.dataset.label_file
  if has_noise or spec.label_column != catalog.CLEAN_LABEL:
    batch["clean_label"] = label
  return batch


def steps_in_epoch(config: ConfigDict, spec: DatasetSpec) -> int | None:
  """Return the steps of an epoch; None if the catalog has no size."""
  if spec.train_examples is None:
    return None
  examples = spec.train_examples - config.dataset.validation_size
  return examples // config.dataset.parts // config.batch_size


def _shapes(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _describe(tree: Any) -> list[tuple[str, tuple[int, ...]]]:
  """Return type and dimensions of the leaves, as HLO names them."""
  return [
    (_HLO_TYPES.get(str(x.dtype), str(x.dtype)), tuple(x.shape))
    for x in jax.tree.leaves(tree)
  ]


_HLO_TYPES = {
  "bfloat16": "bf16",
  "bool": "pred",
  "float16": "f16",
  "float32": "f32",
  "int32": "s32",
  "uint32": "u32",
  "uint8": "u8",
}
