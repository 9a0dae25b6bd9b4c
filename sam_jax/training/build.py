"""From a config to the parts of a run: the one place that takes it apart."""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from sam_jax import masks, methods, models, target
from sam_jax.augment.pipeline import Augmentation, normalize
from sam_jax.augment.resize import resize_bicubic
from sam_jax.config import relations, schema
from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.datasets.image_folder import find_class_names
from sam_jax.m_sharpness import MSharpnessLayout, m_sharpness_layout
from sam_jax.models.summary import model_summary
from sam_jax.sam import sharpness_aware
from sam_jax.training import checks, losses, schedules
from sam_jax.training import optimizer as optimizer_lib
from sam_jax.training.checks import errors_of
from sam_jax.training.hyperparameters import is_zero
from sam_jax.training.parallel import AXIS
from sam_jax.training.step import Parts, random_stream
from sam_jax.training.stored_keys import store_keys


def validate(config: ConfigDict, num_devices: int) -> ConfigDict:
  """Check a config before any compilation or data work.

  Args:
    config: A config with the fields of the schema.
    num_devices: Devices of the run, over all hosts.

  Returns:
    The config with `sam.m` and `model.batch_norm_examples` as the numbers that
    they stand for: a run that resumes on other devices is the same run, or is
    refused.

  Raises:
    ConfigError: A field breaks a rule, or names a method, optimizer or network
      that does not take its options.
  """
  schema.validate_config(config, num_devices)
  config = config.copy_and_resolve_references()
  config.sam.m = layout(config, num_devices).m
  checks.check_decisions(config, batch_norm_scope(config), num_devices)
  config.model.batch_norm_examples = _batch_norm_examples(config, num_devices)
  spec = dataset_spec(config)
  built = parts(config, spec, 1, num_devices)
  if ":" in config.model.name:
    checks.check_network(config, spec, built.model)
  checks.check_transformation(config, "sam.method", _method_of_one_shard)
  checks.check_transformation(config, "optimizer.name", optimizer)
  return config


def parts(
  config: ConfigDict, spec: DatasetSpec, steps_per_epoch: int, num_devices: int
) -> Parts:
  """Build the parts of the training step.

  Args:
    config: A valid config.
    spec: Its data set.
    steps_per_epoch: Optimizer steps in an epoch.
    num_devices: Devices of the run, over all hosts.

  Raises:
    ConfigError: The method, optimizer or network does not take its options.
  """
  shards = layout(config, num_devices)
  learning_rate = schedules.learning_rate_schedule(
    config.optimizer, steps_per_epoch, config.num_epochs
  )
  rho = schedules.rho_schedule(config, learning_rate, steps_per_epoch)
  update_ema = None
  if not is_zero(config.ema.decay):
    update_ema = functools.partial(optimizer_lib.update_ema, **config.ema)
  return Parts(
    model=model(config, spec, shards),
    loss_fn=loss_fn(config),
    sharpness=sharpness(
      config, rho, shards, config.num_epochs * steps_per_epoch
    ),
    optimizer=optimizer(config, learning_rate),
    learning_rate=learning_rate,
    rho=rho,
    dropout_key=random_stream(config.seed, "dropout"),
    ascent_steps=config.sam.ascent_steps,
    every=config.sam.every,
    ascent_stride=relations.ascent_stride(config, num_devices),
    num_microbatches=shards.microbatches,
    unrolls_microbatches=is_slow_in_loops(config),
    freezes_batch_stats=batch_norm_scope(config) == "frozen",
    update_ema=update_ema,
    log_every_steps=config.log_every_steps,
  )


def _method_of_one_shard(
  config: ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
  rho = schedules.rho_schedule(config, learning_rate, 1)
  shards = m_sharpness_layout(None, 1, 1)
  return sharpness(config, rho, shards, config.num_epochs)


def layout(config: ConfigDict, num_devices: int) -> MSharpnessLayout:
  """Return the layout of the examples that share a perturbation."""
  return m_sharpness_layout(
    config.sam.m, config.batch_size // num_devices, num_devices
  )


def loss_fn(
  config: ConfigDict,
) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Build the objective of training.

  Returns:
    (params, logits [N, classes], targets [N, classes]) -> the objective, and
    its part without regularization, float32 ().
  """
  weight_decay = config.optimizer.weight_decay
  if config.optimizer.weight_decay_kind != "l2":
    weight_decay = 0.0

  def loss_and_penalty(params, logits, targets):
    targets = losses.smooth_labels(targets, config.label_smoothing)
    targets = losses.bootstrap_targets(logits, targets, **config.bootstrap)
    loss = jnp.mean(losses.LOSSES[config.loss](logits, targets))
    mask = None
    if not config.optimizer.weight_decay_on_norm:
      mask = masks.kernels(params)
    return loss + losses.l2_penalty(params, weight_decay, mask), loss

  return loss_and_penalty


def sharpness(
  config: ConfigDict,
  rho: optax.ScalarOrSchedule,
  shards: MSharpnessLayout,
  total_steps: float,
) -> optax.GradientTransformationExtraArgs:
  """Build the transformation that `config.sam` describes, for one shard.

  A method is a function (rho, **arguments) -> transformation. It gets
  `has_value`, `sync` and `mask`, arguments of `sharpness_aware` whose fields
  are not at their defaults, `config.sam.options` and, if it has an argument of
  that name, `total_steps`.

  Raises:
    ConfigError: There is no such method, or it does not take its arguments.
  """
  fields, default = config.sam, schema.default_config().sam
  given = {
    name: fields[name]
    for name in ("p", "eta", "ascent_steps", "every", "surrogate_gap")
    if fields[name] != default[name]
  }
  if fields.adaptive:
    given["adaptive"] = masks.SCALED_BY_ASAM[fields.adaptive_mask]
  if fields.second_order:
    given["second_order"] = True
  if fields.random_direction:
    given["random_key"] = random_stream(config.seed, "perturbation")
  given |= {
    "has_value": True,
    "sync": shards.sync(AXIS),
    "mask": {
      "all": None,
      "norm": masks.normalization,
      "no_norm": masks.kernels,
    }[fields.mask],
  }
  given |= _options("sam", fields, {*fields, *given})
  with errors_of("sam.method", fields.method):
    method = _find_method(fields.method)
    if "total_steps" in inspect.signature(method).parameters:
      given["total_steps"] = total_steps
    transformation = checks.call_method(method, rho, given, fields)
    if not isinstance(transformation, optax.GradientTransformation):
      raise ValueError(
        f"it must return a transformation of optax, not {transformation!r}."
      )
    # A method may ignore `grad_fn`, as most transformations of optax do.
    return store_keys(optax.with_extra_args_support(transformation))


def _find_method(name: str) -> Callable[..., Any]:
  """Look up a method by its name in `methods` or as "module:function"."""
  module_name, colon, function = name.rpartition(":")
  if not colon:
    known = {"sam": sharpness_aware, **vars(methods)}
    known = {n: known[n] for n in ("sam", *methods.__all__)}
    if name not in known:
      raise ValueError(schema.did_you_mean(name, known))
    return known[name]
  try:
    return getattr(importlib.import_module(module_name), function)
  except Exception as error:  # a module is a program, and raises anything
    raise ValueError(
      f"{error or repr(error)}. Give package.module:function, and put its"
      " directory on PYTHONPATH."
    ) from error


def _options(
  section: str, fields: ConfigDict, reserved: Collection[str]
) -> dict[str, Any]:
  """Return the options of a section of a config.

  Raises:
    ConfigError: An option repeats a field, or what training itself decides.
  """
  options = fields.options.to_dict()
  for name in options.keys() & reserved:
    raise ConfigError(
      f"config.{section}.options.{name} = {options[name]!r} is set by the field"
      f" config.{section}.{name}, or by training itself. Remove the option."
    )
  return options


def optimizer(
  config: ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
  """Build the transformation that `config.optimizer` describes.

  Raises:
    ConfigError: The optimizer has no such option.
  """
  with errors_of("optimizer.name", config.optimizer.name):
    return store_keys(
      optax.with_extra_args_support(
        optimizer_lib.create_optimizer(config.optimizer, learning_rate)
      )
    )


def is_slow_in_loops(config: ConfigDict) -> bool:
  """Return True if passes of the network should not be the body of a loop.

  On CPUs, gradients of convolutions other than `models.convolution` are slow
  there.
  """
  return ":" in config.model.name and target.platform() == "cpu"


def batch_norm_scope(config: ConfigDict) -> str:
  """Return who shares batch statistics, see `model.batch_norm`.

  The default is that of the official release: none ("frozen") with a
  checkpoint to start from, all devices for EfficientNets.
  """
  if config.model.batch_norm is not None:
    return config.model.batch_norm
  if config.pretrained:
    return "frozen"
  if models.synchronizes_batch_norm(config.model.name):
    return "all"
  return "m"


def _batch_norm_examples(config: ConfigDict, num_devices: int) -> int | None:
  """Return how many examples share batch statistics if devices decide that.

  Raises:
    ConfigError: The config has another number.
  """
  given, examples = config.model.batch_norm_examples, None
  if batch_norm_scope(config) == "device":
    examples = min(config.sam.m, config.batch_size // num_devices)
  if given not in (None, examples):
    raise ConfigError(
      f"config.model.batch_norm_examples = {given}, but on {num_devices}"
      f" devices it is {examples}: use others, or set it to None."
    )
  return examples


def model(
  config: ConfigDict, spec: DatasetSpec, shards: MSharpnessLayout
) -> nn.Module:
  """Build the network; its batch statistics are shared as the config says.

  Raises:
    ConfigError: The network has no such option.
  """
  scope, axis, groups = batch_norm_scope(config), None, None
  if scope == "all":
    axis = AXIS
  elif scope == "m" and shards.devices_per_shard > 1:
    axis, groups = AXIS, shards.axis_index_groups
  given = {
    "dtype": jnp.dtype(config.model.dtype),
    "precision": config.model.precision,
    "batch_norm_axis": axis,
    "batch_norm_groups": groups,
    "freeze_batch_norm": scope == "frozen",
    "remat": config.model.remat,
    "dropout_rate": config.model.dropout_rate,
    "additional_skips": config.model.additional_skips,
    "normalization": config.model.normalization,
  }
  given |= _options("model", config.model, {*config.model, *given})
  with errors_of("model.name", config.model.name):
    checks.check_patches(config, spec)
    return models.create_model(config.model.name, spec.num_classes, **given)


def summary(config: ConfigDict, num_devices: int) -> str:
  """Return a table of the network's parameters, their number, and FLOPs.

  Args:
    config: The config of a run.
    num_devices: Devices of the run, over all hosts.

  Raises:
    ConfigError: The config breaks a rule.
  """
  config = validate(config, num_devices)
  spec = dataset_spec(config)
  network = model(config, spec, layout(config, num_devices))
  return model_summary(network, spec.image_shape)


def dataset_spec(
  config: ConfigDict, class_names: Sequence[str] = ()
) -> DatasetSpec:
  """Return the description of a data set as the network sees it.

  Args:
    config: A config.
    class_names: Names of the classes if they are known, as those of a run are;
      else those of `image_folder` are looked up.

  Raises:
    ConfigError: The size of the images must be set.
    DatasetError: The data set lacks what the config asks for.
  """
  if config.dataset.name == catalog.IMAGE_FOLDER:
    names = class_names or find_class_names(config.dataset.data_dir)
    side = relations.image_folder_size(config)
    spec = catalog.image_folder_spec(names, side)
    return _with_options(spec, config)
  spec = catalog.dataset_spec(config.dataset.name)
  if len(class_names) == spec.num_classes:
    spec = dataclasses.replace(spec, class_names=tuple(class_names))
  size = config.dataset.image_size
  if size is None and spec.storage == catalog.STREAM:
    size = models.image_size(config.model.name)
  if size is not None:
    spec = spec.with_image_size(size)
  return _with_options(spec, config)


def _with_options(spec: DatasetSpec, config: ConfigDict) -> DatasetSpec:
  column = config.dataset.label_column
  if config.dataset.normalization == "symmetric":
    half = (0.5,) * spec.image_shape[2]
    spec = dataclasses.replace(spec, mean=half, std=half)
  return spec if column is None else spec.with_label_column(column)


def augmentation(config: ConfigDict, spec: DatasetSpec) -> Augmentation:
  """Return the part of the input pipeline that runs on the device."""
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
  """Build the preprocessing of evaluation, which runs on the device.

  Returns:
    uint8 [N, h, w, C] -> normalized float32 images of the shape that the
    network sees.
  """
  height, width, _ = spec.image_shape

  def preprocess(images):
    return resize_bicubic(normalize(images, spec.mean, spec.std), height, width)

  return preprocess
