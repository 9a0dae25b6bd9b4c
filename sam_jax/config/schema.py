"""The config of a run: every field with its default, and the rules it obeys."""

import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from sam_jax import models
from sam_jax.augment import pipeline
from sam_jax.datasets import catalog, labels
from sam_jax.m_sharpness import m_sharpness_layout
from sam_jax.training import losses, optimizer

BATCH_NORM_SCOPES = ("m", "device", "all", "frozen")
DTYPES = ("float32", "bfloat16")
MASKS = ("all", "norm", "no_norm")
DECAY_KINDS = ("l2", "decoupled")


class ConfigError(ValueError):
  """A config, or something it points to, that no run can start from."""


def default_config() -> ConfigDict:
  """Every field of a config; the values are the paper's where it has them."""
  return ConfigDict(
    {
      "seed": 0,  # decides initialisation, data order, augmentation, dropout
      "num_epochs": 200,
      "batch_size": 256,  # examples of a step, over all devices
      "eval_batch_size": placeholder(int),  # None: batch_size
      "label_smoothing": 0.0,
      # Reed et al. (2015): targets are mixed with the network's predictions,
      # "soft", or its decisions, "hard". beta is the weight of the labels;
      # None: theirs, 0.95 and 0.8.
      "bootstrap": {"kind": "none", "beta": placeholder(float)},
      # Checkpoint to start from, of the official release or converted by
      # sam_jax.convert; None: fresh weights.
      "pretrained": placeholder(str),
      "model": {
        "name": "wrn28_10",
        "options": {},
        "dtype": "float32",  # of activations: float32 or bfloat16
        # Examples that share batch statistics: "m", those that share a
        # perturbation; "device", those of a device; "all", the whole batch;
        # "frozen", none: the running averages, for fine-tuning. None: as the
        # official release, "frozen" with `pretrained` and "all" in
        # EfficientNets; elsewhere "m".
        "batch_norm": placeholder(str),
        "dropout_rate": placeholder(float),  # None: the model's own
        "remat": False,  # recompute activations in the backward pass
        # Of a wide ResNet: shortcuts around its groups, as AutoAugment's has.
        "additional_skips": placeholder(bool),
        # False: a wide ResNet without batch normalisation, as the paper's
        # study of the Hessian has it.
        "normalisation": placeholder(bool),
      },
      "dataset": {
        "name": "cifar10",
        "data_dir": placeholder(str),  # None: $TFDS_DATA_DIR or TFDS's default
        "validation_size": 0,  # > 0: hold out, and evaluate on, training data
        # Side in pixels that the network sees. None: that of images kept in
        # memory; the one that the network was made for, of streamed images.
        "image_size": placeholder(int),
        # Which labels of cifar10_n or cifar100_n to train on, or "label", the
        # clean ones. None: worse_label, noise_label.
        "label_column": placeholder(str),
        # Training labels of sam_jax.relabel; None: the data set's own.
        "label_file": placeholder(str),
        # The fraction of training labels to corrupt, how, and by which seed.
        "label_noise": {"rate": 0.0, "kind": "symmetric", "seed": 0},
      },
      "augment": {
        # none, basic, autoaugment, aa-only, randaugment. Streamed images are
        # cropped at random, but with none and aa-only at the centre.
        "policy": "basic",
        "cutout": "none",  # "batch": one place a batch (official); "image"
        "cutout_size": 16,
        "mixup_alpha": 0.0,  # 0: no mixup
        "randaugment_layers": 2,
        "randaugment_magnitude": 9,
        # Pixels of translation at level 10. None: the official 250 of
        # AutoAugment, 100 of RandAugment.
        "translate_const": placeholder(int),
      },
      "sam": {
        "method": "sam",
        "options": {},
        "adaptive_mask": "weights",
        "rho": 0.05,  # radius of the neighbourhood; 0: no SAM
        "rho_min": placeholder(float),  # set: rho follows the learning rate
        "m": placeholder(int),  # examples sharing a perturbation; None: device
        "p": 2.0,  # norm of the neighbourhood
        "adaptive": False,  # ASAM
        "eta": 0.01,  # ASAM's offset
        "ascent_steps": 1,
        "every": 1,  # SAM on every k-th step
        "mask": "all",  # perturbed parameters: all, norm (SAM-ON), no_norm
        "surrogate_gap": 0.0,  # GSAM's alpha
        "second_order": False,  # with the Hessian term that SAM drops
      },
      "optimizer": {
        "options": {},
        "name": "sgd",  # sgd, rmsprop, adamw
        "learning_rate": 0.1,
        "schedule": "cosine",  # cosine, exponential, constant
        "warmup_epochs": 0.0,
        "momentum": 0.9,
        "nesterov": True,  # of sgd
        "rmsprop_decay": 0.9,
        "rmsprop_eps": 1e-3,
        "weight_decay": 5e-4,
        "weight_decay_kind": "l2",  # inside the loss, or "decoupled"
        "weight_decay_on_norm": True,  # False spares biases and normalisation
        "gradient_clipping": 5.0,  # global norm, after averaging; 0: off
      },
      "ema": {"decay": 0.0, "warmup_steps": 1560},  # decay 0: off
      "log_every_steps": 50,
      "eval_every_epochs": 1,
      "eval_on_train": False,  # also the error on clean training examples
      "checkpoint_every_epochs": 1.0,  # fractions allowed
      "keep_checkpoints_at_epochs": (),  # kept for ever, beside the last two
      # Sharpness and the Hessian's largest eigenvalue during training.
      "analysis": {
        "every_epochs": 0,  # 0: off
        "num_examples": 512,  # the first ones of the training set
        "rho": 0.05,  # radius of the sharpness
        "m": 32,  # examples that share a perturbation in the m-sharpness
        "lanczos_steps": 15,  # Hessian products; more are more exact
      },
      # "START:STOP": a trace of these steps for TensorBoard's profile plugin.
      "profile": "",
      # The number of the paper that this config stands for, as the paper
      # prints it; set by `paper.name_cell`, shown by sam_jax.report.
      "paper": {
        "table": "",
        "cell": "",
        "error": "",  # with a field `along`: "value: error; value: error"
        "top_5_error": "",
        "along": "",
        "recipe": "",  # tells whether a run departs from the cell's config
        # Of the labels that dataset.label_file was learnt from: its own noise
        # is what is left of that. Only reports read it.
        "noise_rate": 0.0,
      },
      # Compiled programs, reused by later runs; "" turns it off.
      "compilation_cache_dir": "~/.cache/sam_jax/compiled",
    }
  )


def flatten(
  tree: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields ("sam.rho", 0.05) for every field of a config."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def field_names(config: ConfigDict | None = None) -> list[str]:
  """The names of all fields, such as "sam.rho"; None: of the defaults."""
  config = default_config() if config is None else config
  return [name for name, _ in flatten(config.to_dict())]


def closest(name: str, known: Iterable[str]) -> str:
  """The known name that was probably meant, or ""."""
  close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
  return close[0] if close else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """Returns "Known: a, b. Did you mean 'a'?" for an error message."""
  known = list(known)
  text = f"Known: {', '.join(known)}."
  close = closest(name, known)
  return f"{text} Did you mean '{close}'?" if close else text


def check_fields(config: ConfigDict) -> None:
  """Checks that a config has the fields of `default_config`, no more, no less.

  Raises:
    ConfigError: It has not; the message names them.
  """
  names, known = field_names(config), field_names()
  missing = [name for name in known if name not in names]
  unknown = [name for name in names if name not in known]
  if unknown:
    hint = closest(unknown[0], known)
    raise ConfigError(
      f"config.{unknown[0]} is a field that nothing reads."
      + (f" Did you mean config.{hint}?" if hint else " Remove it.")
    )
  if missing:
    raise ConfigError(
      f"The config lacks {', '.join(missing[:3])}: let get_config start from"
      " default_config() of sam_jax/training/config.py."
    )
  values = dict(flatten(config.to_dict()))
  for name, default in flatten(default_config().to_dict()):
    if values[name] is None and default is not None:
      raise ConfigError(
        f"config.{name} = None must have a value, such as {default!r}."
      )


def validate_config(config: ConfigDict, num_devices: int) -> None:
  """Checks every rule that a config must obey, before any other work.

  Args:
    config: A config with the fields of `default_config`.
    num_devices: Devices of the run, over all hosts.

  Raises:
    ConfigError: The first rule that is broken, with the field, its value and
      the remedy.
  """
  check_fields(config)
  _check_choices(config)
  _check_numbers(config)
  _check_relations(config)
  _check_batches(config, num_devices)
  try:
    models.image_size(config.model.name)  # looks the name up, builds nothing
  except ValueError as error:
    raise ConfigError(f"config.model.name: {error}") from error
  try:
    models.create_model(
      config.model.name,
      num_classes=10,
      dropout_rate=config.model.dropout_rate,
      remat=config.model.remat,
      additional_skips=config.model.additional_skips,
      normalisation=config.model.normalisation,
    )
  except ValueError as error:
    raise ConfigError(f"config.model: {error}") from error
  _check_data(config)
  if config.optimizer.name == "adamw" and (
    config.optimizer.weight_decay_kind != "decoupled"
  ):
    raise ConfigError(
      "config.optimizer.name = 'adamw' decays weights apart from the loss: set"
      " config.optimizer.weight_decay_kind = 'decoupled'."
    )


def check_pretrained(config: ConfigDict) -> None:
  """Checks that the checkpoint to start from is there.

  Apart from `validate_config`, because a run that has begun needs it no more.

  Raises:
    ConfigError: It is not.
  """
  if config.pretrained and not epath.Path(config.pretrained).exists():
    raise ConfigError(
      f"config.pretrained = {config.pretrained!r}: there is no such file. Give"
      " the path of an official or a converted checkpoint."
    )


def _check_choices(config: ConfigDict) -> None:
  choices = {
    "model.dtype": DTYPES,
    "model.batch_norm": BATCH_NORM_SCOPES,
    "dataset.name": catalog.known_datasets(),
    "dataset.label_noise.kind": labels.NOISE_KINDS,
    "bootstrap.kind": losses.BOOTSTRAPS,
    "augment.policy": pipeline.POLICIES,
    "augment.cutout": pipeline.CUTOUTS,
    "sam.mask": MASKS,
    "optimizer.name": ("sgd", "rmsprop", "adamw"),
    "optimizer.schedule": optimizer.SCHEDULES,
    "optimizer.weight_decay_kind": DECAY_KINDS,
  }
  for field, known in choices.items():
    value = _get(config, field)
    if value not in known and value is not None:  # an optional field
      raise ConfigError(
        f"config.{field} = {value!r} is unknown. {did_you_mean(value, known)}"
      )


def _check_data(config: ConfigDict) -> None:
  """Checks that noise and operations on colours suit the data set."""
  noise = config.dataset.label_noise
  if (
    noise.rate
    and noise.kind == "asymmetric"
    and config.dataset.name not in ("cifar10", "cifar10_n")
  ):
    raise ConfigError(
      "config.dataset.label_noise.kind = 'asymmetric' follows CIFAR-10's"
      f" classes, not those of {config.dataset.name}. Use 'symmetric'."
    )
  if noise.rate and config.dataset.label_file:
    raise ConfigError(
      f"config.dataset.label_noise.rate = {noise.rate} would corrupt what"
      f" config.dataset.label_file = {config.dataset.label_file!r} says: set"
      " the rate to 0, or the file to None."
    )
  channels = catalog.dataset_spec(config.dataset.name).image_shape[-1]
  if channels != 3 and config.augment.policy not in ("none", "basic"):
    raise ConfigError(
      f"config.augment.policy = {config.augment.policy!r} works on colour"
      f" images; those of {config.dataset.name} have {channels} channel(s). Use"
      " 'none' or 'basic'."
    )


def _check_numbers(config: ConfigDict) -> None:
  """Checks the range of every number."""
  at_least = {
    "seed": 0,
    "dataset.label_noise.seed": 0,
    "augment.randaugment_layers": 0,
    "augment.randaugment_magnitude": 0,
    "augment.translate_const": 0,
    "optimizer.rmsprop_decay": 0,
    "optimizer.rmsprop_eps": 0,
    "num_epochs": 1,
    "batch_size": 1,
    "eval_batch_size": 1,
    "dataset.validation_size": 0,
    "dataset.image_size": 1,
    "bootstrap.beta": 0,
    "dataset.label_noise.rate": 0,
    "augment.cutout_size": 1,
    "augment.mixup_alpha": 0,
    "label_smoothing": 0,
    "model.dropout_rate": 0,
    "sam.rho": 0,
    "sam.rho_min": 0,
    "sam.m": 1,
    "sam.p": 1,
    "sam.eta": 0,
    "sam.ascent_steps": 1,
    "sam.every": 1,
    "sam.surrogate_gap": 0,
    "optimizer.learning_rate": 0,
    "optimizer.warmup_epochs": 0,
    "optimizer.momentum": 0,
    "optimizer.weight_decay": 0,
    "optimizer.gradient_clipping": 0,
    "ema.decay": 0,
    "ema.warmup_steps": 0,
    "log_every_steps": 1,
    "eval_every_epochs": 1,
    "checkpoint_every_epochs": 0.001,
    "analysis.every_epochs": 0,
    "analysis.num_examples": 1,
    "analysis.rho": 0,
    "analysis.m": 1,
    "analysis.lanczos_steps": 1,
  }
  at_most = {
    "optimizer.rmsprop_decay": 1,
    "dataset.label_noise.rate": 1,
    "label_smoothing": 1,
    "bootstrap.beta": 1,
    "model.dropout_rate": 1,
    "optimizer.momentum": 1,
    "ema.decay": 1,
  }
  for field, least in at_least.items():
    value, most = _get(config, field), at_most.get(field, math.inf)
    if value is None:  # an optional field
      continue
    if not least <= value <= most or (value == math.inf and field != "sam.p"):
      limit = f"in [{least}, {most}]"
      if most == math.inf:
        limit = f">= {least}" + (" and finite" if value == most else "")
      raise ConfigError(f"config.{field} = {value} must be {limit}.")


def _check_relations(config: ConfigDict) -> None:
  """Checks numbers that depend on others."""
  if config.sam.second_order:
    for field, value in (("p", 2), ("ascent_steps", 1)):
      if config.sam[field] != value:
        raise ConfigError(
          "config.sam.second_order = True needs"
          f" config.sam.{field} = {value}, not {config.sam[field]}."
        )
  rho, rho_min = config.sam.rho, config.sam.rho_min
  if rho_min is not None and rho_min > rho:
    raise ConfigError(
      f"config.sam.rho_min = {rho_min} must be at most config.sam.rho = {rho}."
    )
  for epoch in config.keep_checkpoints_at_epochs:
    if not isinstance(epoch, int) or not 1 <= epoch <= config.num_epochs:
      raise ConfigError(
        f"config.keep_checkpoints_at_epochs: {epoch!r} is not an epoch of this"
        f" run of {config.num_epochs}."
      )


def _check_batches(config: ConfigDict, num_devices: int) -> None:
  """Checks that batches divide by the devices and by m."""
  for field in ("batch_size", "eval_batch_size"):
    size = config[field]
    if size is not None and size % num_devices:
      nearest = max(size // num_devices, 1) * num_devices
      raise ConfigError(
        f"config.{field} = {size} does not divide by the {num_devices} devices"
        f" of this run; {nearest} would."
      )
  try:
    m_sharpness_layout(
      config.sam.m, config.batch_size // num_devices, num_devices
    )
  except ValueError as error:
    raise ConfigError(f"config.sam.m: {error}") from error
  m, count = config.analysis.m, config.analysis.num_examples
  if m > count:
    raise ConfigError(
      f"config.analysis.m = {m} must be at most config.analysis.num_examples ="
      f" {count}."
    )


def _get(config: ConfigDict, field: str):
  for name in field.split("."):
    config = config[name]
  return config
