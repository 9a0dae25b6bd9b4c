"""Sizes of the reproduction: data, networks, lengths, seeds and grids."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sam_jax.config import files, schema
from scripts.reproduce.transfer import steps_per_epoch

Fields = Mapping[str, Any]

# What all runs share: one evaluation, at the end.
_QUIET: dict[str, Any] = {
  "augment.policy": "none",
  "dataset.label_noise.rate": 0.0,
  "checkpoint_every_epochs": 1000.0,
  "eval_every_epochs": 1000,
}


class Level(NamedTuple):
  """The size of a reproduction.

  Attributes:
    title: Data, network and hardware, in words.
    config: Config file with its words; all runs start from it.
    fields: What all runs change in it.
    epochs: Epochs of a run.
    parts: Disjoint parts of the training set; seed s trains on part s.
    seeds: Number of seeds of a result.
    tuning_seeds: Seeds that choose hyperparameters, on other examples.
    validation: Training examples held out for that choice.
    learning_rates: Grid of SGD without SAM.
    rhos: Grid of SAM's radius.
    noise: What studies of label noise change.
    noise_rates: Fractions of the labels.
    noise_rhos: Grid of SAM's radius with label noise.
    mixup_alphas: Grid of Mixup with label noise.
    studies: Names of the studies, in the order of the document.
    devices: Virtual devices of a CPU, each of which computes half a batch; 0
      for the devices of the machine.
    together: Most runs that train in one program.
    speed: Gradients of images in a second on the hardware of the title.
    minutes: Estimate of the minutes on that hardware, by the processor time of
      a whole run, compilation and measurements included; 0 before there is one.
  """

  title: str
  config: str
  fields: Fields
  epochs: int
  parts: int
  seeds: int
  tuning_seeds: tuple[int, ...]
  validation: int
  learning_rates: tuple[float, ...]
  rhos: tuple[float, ...]
  noise: Fields
  noise_rates: tuple[float, ...]
  noise_rhos: tuple[float, ...]
  mixup_alphas: tuple[float, ...]
  studies: tuple[str, ...]
  devices: int
  together: int
  speed: float
  minutes: int

  def make_config(self, fields: Fields) -> ConfigDict:
    """Return the config of a run.

    Args:
      fields: What the run changes in the config of the level.
    """
    config = _base(self.config).copy_and_resolve_references()
    config.variant = ""  # it is no recipe of the paper
    length = {"num_epochs": self.epochs, "dataset.parts": self.parts}
    schema.update(config, {**_QUIET, **length, **self.fields, **fields})
    config.log_every_steps = 1_000_000
    return config


@functools.cache
def _base(source: str) -> ConfigDict:
  return files.read_config(source)


def gradients(config: ConfigDict) -> int:
  """Return the number of gradients of images that a run computes."""
  sam = config.sam
  passes = 1
  if sam.rho:
    passes += sam.ascent_steps + 2 * sam.second_order
  steps = config.num_epochs * steps_per_epoch(config.to_dict())
  return passes * steps * config.batch_size


_SMALL = (
  "comparison",
  "label_noise",
  "radius",
)
_ALL = (
  "comparison",
  "label_noise",
  "radius",
  "m_sharpness",
  "augmentation",
  "ascent_steps",
  "norms",
  "second_order",
  "curvature",
  "prediction",
  "fine_tuning",
)

LEVELS = {
  "minute": Level(
    title="handwritten digits (8x8 pixels), cnn4, two CPU cores",
    config="configs/digits.py:sam",
    fields={"model.name": "cnn4", "batch_size": 32, "sam.m": 16},
    epochs=20,
    parts=6,
    seeds=6,
    tuning_seeds=(100,),
    validation=282,
    learning_rates=(0.03, 0.1),
    rhos=(0.1, 0.2, 0.4),
    noise={},
    noise_rates=(0.4,),
    noise_rhos=(0.2, 0.4, 0.8),
    mixup_alphas=(1.0, 8.0),
    studies=_SMALL,
    devices=2,
    together=8,
    speed=6000.0,
    minutes=5,
  ),
  "hour": Level(
    title="Fashion-MNIST resized to 14x14 pixels, WRN-10-1, two CPU cores",
    config="configs/fashion_mnist.py:sam",
    fields={
      "model.name": "wrn10_1",
      "dataset.image_size": 14,
      "batch_size": 64,
      "eval_batch_size": 500,
      "sam.m": 32,
    },
    epochs=15,
    parts=60,
    seeds=8,
    tuning_seeds=(100, 101),
    validation=6000,
    learning_rates=(0.03, 0.1, 0.3),
    rhos=(0.05, 0.1, 0.2),
    noise={},
    noise_rates=(0.4, 0.8),
    noise_rhos=(0.1, 0.2, 0.4),
    mixup_alphas=(1.0, 8.0),
    studies=_ALL,
    devices=2,
    together=8,
    speed=3200.0,
    minutes=120,
  ),
  "gpu": Level(
    title="CIFAR-10, WRN-28-10 as in the paper, one H100",
    config="configs/cifar.py:wrn28_10,cifar10,basic,sam",
    fields={"augment.policy": "basic"},
    epochs=200,
    parts=1,
    seeds=5,
    tuning_seeds=(100,),
    validation=5000,
    learning_rates=(0.1,),
    rhos=(0.05,),
    noise={
      "model.name": "resnet32",
      "batch_size": 128,
      "optimizer.weight_decay": 2e-4,
      "optimizer.weight_decay_on_norm": False,
    },
    noise_rates=(0.2, 0.4, 0.6, 0.8),
    noise_rhos=(0.05, 0.1),
    mixup_alphas=(1.0, 8.0, 16.0, 32.0),
    studies=("time_to_accuracy", "comparison", "radius", "label_noise"),
    devices=0,
    together=1,
    speed=3000.0,
    minutes=0,
  ),
}
