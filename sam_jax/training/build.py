"""From a config to what a step does."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from sam_jax import models
from sam_jax.augment.pipeline import Augmentation, normalise
from sam_jax.augment.resize import resize_bicubic
from sam_jax.config.schema import validate_config
from sam_jax.datasets.catalog import STREAM, DatasetSpec, dataset_spec
from sam_jax.m_sharpness import MSharpnessLayout, m_sharpness_layout
from sam_jax.models.summary import model_summary
from sam_jax.sam import sharpness_aware
from sam_jax.training import optimizer
from sam_jax.training.step import AXIS, Recipe


def create_recipe(
  config: ConfigDict, spec: DatasetSpec, steps_per_epoch: int, num_devices: int
) -> Recipe:
  """Builds the network, SAM, and the optimizer that a config asks for.

  Args:
    config: A valid config.
    spec: Its data set.
    steps_per_epoch: Optimizer steps in an epoch.
    num_devices: Devices of the run, over all hosts.

  Returns:
    The recipe of its training step.
  """
  layout = m_sharpness_layout(
    config.sam.m, config.batch_size // num_devices, num_devices
  )
  schedule = optimizer.learning_rate_schedule(
    config.optimizer, steps_per_epoch, config.num_epochs
  )
  is_in_loss = config.optimizer.weight_decay_kind == "l2"
  return Recipe(
    model=create_model(config, spec, layout),
    sharpness=sharpness_aware(
      optimizer.rho_schedule(config, schedule),
      p=config.sam.p,
      adaptive=config.sam.adaptive,
      eta=config.sam.eta,
      ascent_steps=config.sam.ascent_steps,
      sync=layout.sync(AXIS),
      every=config.sam.every,
      mask=optimizer.perturbation_mask(config.sam.mask),
      surrogate_gap=config.sam.surrogate_gap,
      second_order=config.sam.second_order,
      has_value=True,
    ),
    optimizer=optimizer.create_optimizer(config.optimizer, schedule),
    schedule=schedule,
    seed=config.seed,
    uses_sam=config.sam.rho > 0,
    ascent_steps=config.sam.ascent_steps,
    sam_every=config.sam.every,
    freezes_batch_stats=batch_norm_scope(config) == "frozen",
    micro_shards=layout.micro_shards,
    label_smoothing=config.label_smoothing,
    bootstrap=config.bootstrap.kind,
    bootstrap_beta=config.bootstrap.beta,
    noisy_labels=spec.noisy_labels,
    l2=config.optimizer.weight_decay if is_in_loss else 0.0,
    l2_on_norm=config.optimizer.weight_decay_on_norm,
    ema_decay=config.ema.decay,
    ema_warmup_steps=config.ema.warmup_steps,
    log_every_steps=config.log_every_steps,
  )


def input_spec(config: ConfigDict) -> DatasetSpec:
  """Describes the data set of a config as its network sees it.

  Raises:
    DatasetError: The data set lacks what the config asks for.
  """
  spec = dataset_spec(config.dataset.name)
  size = config.dataset.image_size
  if size is None and spec.storage == STREAM:
    size = models.image_size(config.model.name)
  if size is not None:
    spec = spec.with_image_size(size)
  if config.dataset.label_column is not None:
    spec = spec.with_label_column(config.dataset.label_column)
  return spec


def batch_norm_scope(config: ConfigDict) -> str:
  """Returns who shares batch statistics, see `model.batch_norm`.

  Unless the config says it, the official release does: with a checkpoint to
  start from nobody, in EfficientNets all devices.
  """
  if config.model.batch_norm is not None:
    return config.model.batch_norm
  if config.pretrained:
    return "frozen"
  if models.synchronises_batch_norm(config.model.name):
    return "all"
  return "m"


def create_model(
  config: ConfigDict, spec: DatasetSpec, layout: MSharpnessLayout
) -> nn.Module:
  """Builds the network, its batch statistics shared as the config says."""
  scope = batch_norm_scope(config)
  create = functools.partial(
    models.create_model,
    config.model.name,
    spec.num_classes,
    dtype=jnp.dtype(config.model.dtype),
    dropout_rate=config.model.dropout_rate,
    remat=config.model.remat,
    additional_skips=config.model.additional_skips,
    normalisation=config.model.normalisation,
  )
  if scope == "frozen":
    return create(freeze_batch_norm=True)
  if scope == "all":
    return create(batch_norm_axis=AXIS)
  if scope == "m" and layout.devices_per_shard > 1:
    groups = layout.axis_index_groups
    return create(batch_norm_axis=AXIS, batch_norm_groups=groups)
  return create()


def summary(config: ConfigDict, num_devices: int) -> str:
  """Returns a table of the network's parameters, their number, and FLOPs.

  Args:
    config: The config of a run.
    num_devices: Devices of the run, over all hosts.

  Raises:
    ConfigError: The config breaks a rule.
  """
  validate_config(config, num_devices)
  spec = input_spec(config)
  layout = m_sharpness_layout(
    config.sam.m, config.batch_size // num_devices, num_devices
  )
  model = create_model(config, spec, layout)
  return model_summary(model, spec.image_shape)


def create_augmentation(config: ConfigDict, spec: DatasetSpec) -> Augmentation:
  """Describes the part of the input pipeline that runs on the device."""
  return Augmentation(
    num_classes=spec.num_classes,
    mean=spec.mean,
    std=spec.std,
    autoaugment_policy=spec.autoaugment_policy,
    flip=spec.flip,
    crop_padding=spec.crop_padding,
    **config.augment,
  )


def preprocess_fn(spec: DatasetSpec) -> Callable[[jax.Array], jax.Array]:
  """Returns what evaluation does to images on the device.

  The function takes uint8 [N, h, w, C] and returns normalised float32 images
  of the shape that the network sees.
  """
  height, width, _ = spec.image_shape

  def preprocess(images):
    return resize_bicubic(normalise(images, spec.mean, spec.std), height, width)

  return preprocess
