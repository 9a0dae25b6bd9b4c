"""Rules that relate several fields of a config, or look up a name.

The options of a method, an optimizer or a network are checked when it is built,
see `training/build.py`.
"""

import inspect

import optax
from ml_collections import ConfigDict

from sam_jax import models, wording
from sam_jax.config import schedule_rules
from sam_jax.config.field_type import ConfigError
from sam_jax.config.hints import did_you_mean
from sam_jax.datasets import catalog
from sam_jax.m_sharpness import m_sharpness_layout
from sam_jax.runs import loggers

# Optimizers with fields of their own in `config.optimizer`.
_OWN_OPTIMIZERS = ("sgd", "rmsprop", "adamw")

# Methods whose first gradient of a step may be the one to descend along.
_WITHOUT_ASCENT = ("ae_sam", "momentum_sam", "single_step_sam")


def check(config: ConfigDict, num_devices: int) -> None:
  """Check all rules of this file.

  Args:
    config: A config whose fields are valid when checked one at a time.
    num_devices: Devices of the run, over all hosts.

  Raises:
    ConfigError: A rule is broken; the message has the field, its value and the
      remedy.
  """
  _check_batches(config, num_devices)
  _check_m(config, num_devices)
  _check_second_order(config)
  _check_ascent_fraction(config, num_devices)
  _check_bootstrap(config)
  _check_optimizer(config)
  schedule_rules.check(config)
  _check_kept_checkpoints(config)
  _check_analysis(config)
  loggers.check(config.log_to)
  _check_model(config)
  _check_dataset(config)
  _check_part(config)
  _check_label_noise(config)
  _check_colors(config)
  _check_cutout(config)


def _check_batches(config: ConfigDict, num_devices: int) -> None:
  for field in ("batch_size", "eval_batch_size"):
    size = config[field]
    if size is not None and size % num_devices:
      nearest = max(size // num_devices, 1) * num_devices
      raise ConfigError(
        f"config.{field} = {size} does not divide by the {num_devices} devices"
        f" of this run; {nearest} would."
      )


def _check_m(config: ConfigDict, num_devices: int) -> None:
  try:
    m_sharpness_layout(
      config.sam.m, config.batch_size // num_devices, num_devices
    )
  except ValueError as error:
    raise ConfigError(f"config.sam.m: {error}") from error


def _check_second_order(config: ConfigDict) -> None:
  needed = {"p": 2, "ascent_steps": 1, "random_direction": False}
  for field, value in needed.items():
    if config.sam.second_order and config.sam[field] != value:
      raise ConfigError(
        "config.sam.second_order = True needs"
        f" config.sam.{field} = {value}, not {config.sam[field]}."
      )


def ascent_stride(config: ConfigDict, num_devices: int) -> int:
  """Return k if the ascent is on every k-th example of a shard.

  Raises:
    ConfigError: `sam.ascent_fraction` is not 1 / k for a k that divides the
      examples of a device that share a perturbation.
  """
  fraction = config.sam.ascent_fraction
  per_device = config.batch_size // num_devices
  examples = min(config.sam.m or per_device, per_device)
  stride = round(1 / fraction)
  if abs(stride * fraction - 1) > 1e-3 or examples % stride:
    known = [k for k in range(1, examples + 1) if examples % k == 0]
    fractions = ", ".join(f"{1 / k:.4g}" for k in known)
    raise ConfigError(
      f"config.sam.ascent_fraction = {fraction} does not divide the"
      f" {wording.count(examples, 'example')} of a device that share a"
      f" perturbation; it can be {fractions}."
    )
  return stride


def _check_ascent_fraction(config: ConfigDict, num_devices: int) -> None:
  is_part = ascent_stride(config, num_devices) > 1
  if is_part and config.sam.method in _WITHOUT_ASCENT:
    raise ConfigError(
      f"config.sam.ascent_fraction = {config.sam.ascent_fraction} needs a first"
      " pass that is one of ascent, and config.sam.method ="
      f" {config.sam.method!r} may descend along it: set it to 1.0."
    )


def _check_bootstrap(config: ConfigDict) -> None:
  if config.bootstrap.kind != "none" and config.loss != "softmax":
    raise ConfigError(
      f"config.bootstrap.kind = {config.bootstrap.kind!r} mixes targets with"
      f" the softmax that config.loss = {config.loss!r} lacks: set it to"
      " 'none', or the loss to 'softmax'."
    )


def _check_optimizer(config: ConfigDict) -> None:
  name = config.optimizer.name
  if name not in _OWN_OPTIMIZERS and not _is_optimizer(name):
    known = [n for n in dir(optax) if _is_optimizer(n)]
    names = did_you_mean(name, sorted({*_OWN_OPTIMIZERS, *known}))
    raise ConfigError(f"config.optimizer.name = {name!r} is unknown. {names}")
  kind = config.optimizer.weight_decay_kind
  if name == "adamw" and kind != "decoupled":
    raise ConfigError(
      "config.optimizer.name = 'adamw' decays weights apart from the loss: set"
      " config.optimizer.weight_decay_kind = 'decoupled'."
    )


def _is_optimizer(name: str) -> bool:
  """Return True if optax has an optimizer of this name."""
  function = getattr(optax, name, None)
  if name.startswith(("_", "scale_by_")) or not inspect.isfunction(function):
    return False
  return "learning_rate" in inspect.signature(function).parameters


def _check_kept_checkpoints(config: ConfigDict) -> None:
  for epoch in config.keep_checkpoints_at_epochs:
    if not isinstance(epoch, int) or not 1 <= epoch <= config.num_epochs:
      raise ConfigError(
        f"config.keep_checkpoints_at_epochs: {epoch!r} is not an epoch of this"
        f" run of {config.num_epochs}."
      )


def _check_analysis(config: ConfigDict) -> None:
  m, count = config.analysis.m, config.analysis.num_examples
  if m > count:
    raise ConfigError(
      f"config.analysis.m = {m} must be at most config.analysis.num_examples ="
      f" {count}."
    )
  # Imported late: most runs have none of these measures.
  if config.analysis.measures:
    from sam_jax.analysis.measure_names import parse_measures

    try:
      for measure in parse_measures(config.analysis.measures):
        measure.check(count)
    except ValueError as error:
      raise ConfigError(f"config.analysis.measures: {error}") from error


def _check_model(config: ConfigDict) -> None:
  try:
    models.image_size(config.model.name)  # looks the name up, builds nothing
  except ValueError as error:
    raise ConfigError(f"config.model.name: {error}") from error


def _check_dataset(config: ConfigDict) -> None:
  name, known = config.dataset.name, catalog.known_datasets()
  if name not in known:
    raise ConfigError(
      f"config.dataset.name = {name!r} is unknown. {did_you_mean(name, known)}"
    )


def _check_part(config: ConfigDict) -> None:
  part, parts = config.dataset.part, config.dataset.parts
  if part >= parts:
    raise ConfigError(
      f"config.dataset.part = {part} must be below config.dataset.parts ="
      f" {parts}."
    )
  name = config.dataset.name
  is_folder = name == catalog.IMAGE_FOLDER
  if parts > 1 and (
    is_folder or catalog.dataset_spec(name).storage == catalog.STREAM
  ):
    raise ConfigError(
      f"config.dataset.parts = {parts} needs a data set that TFDS prepares and"
      f" memory holds; {name} is none. Set it to 1."
    )


def image_folder_size(config: ConfigDict) -> int:
  """Return the side in pixels of the images that an image folder makes.

  Raises:
    ConfigError: It is not set, and the network was not designed for any.
  """
  size = config.dataset.image_size or models.image_size(config.model.name)
  if size is None:
    raise ConfigError(
      f"config.dataset.image_size must be set: {config.model.name} has no size"
      " of images of its own."
    )
  return size


def _check_label_noise(config: ConfigDict) -> None:
  noise, name = config.dataset.label_noise, config.dataset.name
  is_of_cifar10 = name in ("cifar10", "cifar10_n")
  if noise.rate and noise.kind == "asymmetric" and not is_of_cifar10:
    raise ConfigError(
      "config.dataset.label_noise.kind = 'asymmetric' follows CIFAR-10's"
      f" classes, not those of {name}. Use 'symmetric'."
    )
  if noise.rate and config.dataset.label_file:
    raise ConfigError(
      f"config.dataset.label_noise.rate = {noise.rate} would corrupt the labels"
      f" of config.dataset.label_file = {config.dataset.label_file!r}: set the"
      " rate to 0, or the file to None."
    )


def _check_colors(config: ConfigDict) -> None:
  name, policy = config.dataset.name, config.augment.policy
  if name == catalog.IMAGE_FOLDER:  # always color
    return
  channels = catalog.dataset_spec(name).image_shape[-1]
  if channels != 3 and policy not in ("none", "basic"):
    raise ConfigError(
      f"config.augment.policy = {policy!r} works on color images; those of"
      f" {name} have {wording.count(channels, 'channel')}. Use 'none' or"
      " 'basic'."
    )


def _check_cutout(config: ConfigDict) -> None:
  size, side = config.augment.cutout_size, config.dataset.image_size
  if config.dataset.name == catalog.IMAGE_FOLDER:
    spec = catalog.image_folder_spec((), image_folder_size(config))
  else:
    spec = catalog.dataset_spec(config.dataset.name)
  if side is None and spec.storage == catalog.STREAM:
    side = models.image_size(config.model.name)
  side = side or min(spec.image_shape[:2])
  if config.augment.cutout != "none" and size > side:
    raise ConfigError(
      f"config.augment.cutout_size = {size} must be at most {side}, the side of"
      " the images."
    )
