"""The one place that knows a data set: its name, splits, size, statistics."""

import contextlib
import dataclasses
import importlib
import logging
import os
import shlex
from typing import Any

from etils import epath

logger = logging.getLogger(__name__)

IN_MEMORY = "memory"
STREAM = "stream"

CLEAN_LABEL = "label"


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
    image_shape: (height, width, channels) that networks see. Images in memory
      may be smaller: they are resized on the device.
    mean: Per channel, of pixel values in [0, 1], on the training set.
    std: Standard deviation, likewise.
    autoaugment_policy: Name of its AutoAugment policy.
    flip: Whether a mirror image is of the same class.
    crop_padding: Pixels of padding before a random crop.
    needs_download: False if it is made from an installed package.
    manual_files: What users must have already because nothing can download it.
    storage: "memory", as uint8 arrays, or "stream": decoded, cropped and
      resized by the host again and again.
    label_column: Where TFDS keeps the labels to train on.
    noisy_label_columns: The choices beside the clean "label".
    noisy_labels: Whether training labels may be wrong; batches then carry the
      clean ones too. Set by whoever loads the data set.
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
  manual_files: str = ""
  storage: str = IN_MEMORY
  label_column: str = CLEAN_LABEL
  noisy_label_columns: tuple[str, ...] = ()
  noisy_labels: bool = False

  @property
  def directory(self) -> str:
    """Name of the directory that TFDS keeps it in, without loading TFDS."""
    # Builders of ours are in a module of that name.
    return self.tfds_name.partition(":")[0].rpartition(".")[2]

  def with_image_size(self, size: int) -> "DatasetSpec":
    """The same data set with square images of another size."""
    shape = (size, size, self.image_shape[-1])
    return dataclasses.replace(self, image_shape=shape)

  def with_label_column(self, column: str) -> "DatasetSpec":
    """The same data set, trained on the labels of another column.

    Raises:
      DatasetError: It has no such column.
    """
    known = (CLEAN_LABEL, *self.noisy_label_columns)
    if column not in known:
      raise DatasetError(
        f"config.dataset.label_column = {column!r}: {self.name} has only"
        f" {', '.join(known)}."
      )
    return dataclasses.replace(self, label_column=column)


# Means and standard deviations are those of google-research/sam.
_CIFAR10 = DatasetSpec(
  name="cifar10",
  tfds_name="cifar10",
  num_classes=10,
  image_shape=(32, 32, 3),
  mean=(0.49139968, 0.48215841, 0.44653091),
  std=(0.24703223, 0.24348513, 0.26158784),
)
_CIFAR100 = DatasetSpec(
  name="cifar100",
  tfds_name="cifar100",
  num_classes=100,
  image_shape=(32, 32, 3),
  mean=(0.50707516, 0.48654887, 0.44091784),
  std=(0.26733429, 0.25643846, 0.27615047),
)
_IMAGENET = DatasetSpec(
  name="imagenet2012",
  tfds_name="imagenet2012",
  manual_files="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
  num_classes=1000,
  image_shape=(224, 224, 3),
  mean=(0.485, 0.456, 0.406),
  std=(0.229, 0.224, 0.225),
  test_split="validation",
  autoaugment_policy="imagenet",
  crop_padding=0,  # the host crops
  storage=STREAM,
)


def _fine_grained(name: str, num_classes: int, **fields) -> DatasetSpec:
  """A data set for fine-tuning, preprocessed as ImageNet is.

  Its splits are those of Kornblith et al. (CVPR 2019), table 1.
  """
  defaults = {"tfds_name": name, "test_split": "test", "manual_files": ""}
  return dataclasses.replace(
    _IMAGENET, name=name, num_classes=num_classes, **{**defaults, **fields}
  )


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
  _CIFAR10,
  _CIFAR100,
  # CIFAR with labels by crowd workers (Wei et al., ICLR 2022): of CIFAR-10,
  # the worst of three workers, their majority, and each alone; 40%, 9%, 18%
  # wrong. Of CIFAR-100, one worker; 40% wrong.
  dataclasses.replace(
    _CIFAR10,
    name="cifar10_n",
    tfds_name="cifar10_n",
    manual_files="CIFAR-10_human_annotations.csv, side_info_cifar10N.csv and"
    " image_order_c10.npy",
    label_column="worse_label",
    noisy_label_columns=(
      "worse_label",
      "aggre_label",
      "random_label1",
      "random_label2",
      "random_label3",
    ),
  ),
  dataclasses.replace(
    _CIFAR100,
    name="cifar100_n",
    tfds_name="cifar100_n",
    manual_files="CIFAR-100_human_annotations.csv, side_info_cifar100N.csv and"
    " image_order_c100.npy",
    label_column="noise_label",
    noisy_label_columns=("noise_label",),
  ),
  DatasetSpec(
    name="svhn",
    tfds_name="svhn_cropped",
    num_classes=10,
    image_shape=(32, 32, 3),
    mean=(0.43090966, 0.4302428, 0.44634357),
    std=(0.19759192, 0.20029082, 0.19811132),
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
  _IMAGENET,
  _fine_grained(  # 47,386 and 2,443 images, those that could be fetched
    "birdsnap",
    500,
    tfds_name="sam_jax.datasets.builders.birdsnap:Birdsnap",
    manual_files="birdsnap/images, the images that Flickr still had",
  ),
  _fine_grained(  # 8,144 and 8,041
    "stanford_cars",
    196,
    tfds_name="sam_jax.datasets.builders.cars196:Cars196",
    manual_files="cars_train.tgz, cars_test.tgz, car_devkit.tgz and"
    " cars_test_annos_withlabels.mat",
  ),
  _fine_grained(  # 2,040 and 6,149
    "oxford_flowers102", 102, train_splits=("train", "validation")
  ),
  _fine_grained(  # 6,667 and 3,333
    "fgvc_aircraft",
    100,
    tfds_name="sam_jax.datasets.builders.fgvc_aircraft:FgvcAircraft",
    train_splits=("train", "validation"),
  ),
  _fine_grained("oxford_iiit_pet", 37),  # 3,680 and 3,669
  _fine_grained("food101", 101, test_split="validation"),  # 75,750 and 25,250
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
    DatasetError: It was never prepared, or is damaged. The message says where
      it was looked for and which command prepares it.
  """
  builder = tfds_builder(spec, data_dir)
  if not epath.Path(builder.data_path).exists():
    if spec.needs_download:
      raise DatasetError(
        f"Data set {spec.name!r} is not at {builder.data_path}. Prepare it"
        f" with: {_prepare_command(spec, data_dir)}"
      )
    _prepare_quietly(spec, builder)
  if not builder.info.splits:  # read before another process had prepared it
    builder = tfds_builder(spec, data_dir)
  if not builder.info.splits:
    raise damaged(spec, builder, "dataset_info.json is not there")
  return builder


def _prepare_command(spec: DatasetSpec, data_dir: str | None) -> str:
  """The command line that prepares a data set, ready for a shell."""
  words = ["python", "-m", "sam_jax.datasets.prepare", spec.name]
  if data_dir:
    words.append(f"--data_dir={data_dir}")
  if not spec.manual_files:
    return shlex.join(words)
  return (
    f"{shlex.join(words)} --manual_dir=DIR, where DIR holds {spec.manual_files}"
  )


def damaged(spec: DatasetSpec, builder: Any, what: str) -> DatasetError:
  """The error that what TFDS once prepared is not whole any more."""
  return DatasetError(
    f"Data set {spec.name!r} at {builder.data_path} is damaged: {what}. Remove"
    " that directory and prepare it again."
  )


def split_info(spec: DatasetSpec, builder: Any, split: str) -> Any:
  """Returns what TFDS knows of a split of a prepared data set.

  Raises:
    DatasetError: It was prepared without that split, as ImageNet may be.
  """
  if split not in builder.info.splits:
    raise DatasetError(
      f"Data set {spec.name!r} at {builder.data_path} has no split {split!r},"
      f" only {', '.join(builder.info.splits)}. Remove that directory, add the"
      " missing archives, and prepare it again."
    )
  return builder.info.splits[split]


def hide_accelerators_from_tensorflow() -> None:
  """Leaves the memory of all accelerators to JAX."""
  import tensorflow as tf

  for kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], kind)


def _prepare_quietly(spec: DatasetSpec, builder: Any) -> None:
  """Prepares a data set within a run, without TFDS's many progress bars.

  Raises:
    DatasetError: It can't be written.
  """
  import tensorflow_datasets as tfds

  logger.info("Preparing data set %s at %s.", spec.name, builder.data_path)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(None):
      builder.download_and_prepare()
  except OSError as error:
    if epath.Path(builder.data_path).exists():
      return  # another process was faster
    raise DatasetError(
      f"Data set {spec.name!r} can't be written to {builder.data_path}:"
      f" {error.strerror or error}. Set config.dataset.data_dir to a directory"
      " that can be written."
    ) from error
