"""The one place that knows a data set: its name, splits, size, statistics."""

import contextlib
import dataclasses
import importlib
import logging
import os
from typing import Any

from etils import epath

logger = logging.getLogger(__name__)

STORED_IN_MEMORY = "memory"


class DatasetError(ValueError):
  """A data set that is unknown, is not there, or does not fit the request."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """What the pipelines need to know of a data set.

  Attributes:
    name: Its name in configs.
    tfds_name: Its name in TFDS, or "module:Class" of a builder of ours.
    train_splits: TFDS splits that make up the training set. A validation set
      is taken from the end of the first.
    test_split: TFDS split of the test set.
    num_classes: Number of classes.
    image_shape: (height, width, channels) that networks see.
    mean: Per channel, of pixel values in [0, 1], on the training set.
    std: Standard deviation, likewise.
    autoaugment_policy: Name of its AutoAugment policy.
    flip: Whether a mirror image is of the same class.
    crop_padding: Pixels of padding before a random crop.
    needs_download: False if it is made from an installed package.
    storage: Where its images live during training.
  """

  name: str
  tfds_name: str
  num_classes: int
  image_shape: tuple[int, int, int]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  train_splits: tuple[str, ...] = ("train",)
  test_split: str = "test"
  autoaugment_policy: str = "cifar10"
  flip: bool = True
  crop_padding: int = 4
  needs_download: bool = True
  storage: str = STORED_IN_MEMORY


# Means and standard deviations are those of google-research/sam.
_SPECS = (
  DatasetSpec(
    name="digits",
    tfds_name="sam_jax.datasets.builders.digits:Digits",
    num_classes=10,
    image_shape=(8, 8, 1),
    mean=(0.3055,),
    std=(0.3766,),
    flip=False,
    crop_padding=1,
    needs_download=False,
  ),
  DatasetSpec(
    name="cifar10",
    tfds_name="cifar10",
    num_classes=10,
    image_shape=(32, 32, 3),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
  ),
  DatasetSpec(
    name="cifar100",
    tfds_name="cifar100",
    num_classes=100,
    image_shape=(32, 32, 3),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
  ),
  DatasetSpec(
    name="svhn",
    tfds_name="svhn_cropped",
    num_classes=10,
    image_shape=(32, 32, 3),
    mean=(0.4309, 0.4302, 0.4463),
    std=(0.1976, 0.2003, 0.1981),
    train_splits=("train", "extra"),
    autoaugment_policy="svhn",
  ),
  DatasetSpec(
    name="fashion_mnist",
    tfds_name="fashion_mnist",
    num_classes=10,
    image_shape=(28, 28, 1),
    mean=(0.1307,),
    std=(0.3081,),
  ),
)

_BY_NAME = {spec.name: spec for spec in _SPECS}


def known_datasets() -> list[str]:
  """Names of the data sets that configs can ask for."""
  return list(_BY_NAME)


def dataset_spec(name: str) -> DatasetSpec:
  """Looks a data set up.

  Raises:
    DatasetError: There is none of that name.
  """
  if name not in _BY_NAME:
    known = ", ".join(_BY_NAME)
    raise DatasetError(f"Data set {name!r} is unknown. Known: {known}.")
  return _BY_NAME[name]


def tfds_builder(spec: DatasetSpec, data_dir: str | None) -> Any:
  """Returns the TFDS builder of a data set, prepared or not."""
  # TensorFlow reads these when it is loaded: nothing but errors, please.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  import tensorflow_datasets as tfds  # slow to import, rarely needed

  if ":" not in spec.tfds_name:
    return tfds.builder(spec.tfds_name, data_dir=data_dir)
  module, name = spec.tfds_name.split(":")
  return getattr(importlib.import_module(module), name)(data_dir=data_dir)


def prepared_builder(spec: DatasetSpec, data_dir: str | None) -> Any:
  """Returns the TFDS builder of a data set whose files are there.

  A data set that needs no download is made on the spot.

  Raises:
    DatasetError: It was never prepared. The message says where it was looked
      for and which command prepares it.
  """
  builder = tfds_builder(spec, data_dir)
  if epath.Path(builder.data_path).exists():
    return builder
  if not spec.needs_download:
    _prepare_quietly(spec, builder)
    return builder
  where = f" --data_dir={data_dir}" if data_dir else ""
  raise DatasetError(
    f"Data set {spec.name!r} is not at {builder.data_path}. Prepare it with:"
    f" python -m sam_jax.datasets.prepare {spec.name}{where}"
  )


def _prepare_quietly(spec: DatasetSpec, builder: Any) -> None:
  """Prepares a data set within a run, without TFDS's many progress bars."""
  import tensorflow_datasets as tfds

  logger.info("Preparing data set %s at %s.", spec.name, builder.data_path)
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(None):
    builder.download_and_prepare()
