"""The table of data sets: names, splits, sizes, statistics."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

IN_MEMORY = "memory"
STREAM = "stream"

CLEAN_LABEL = "label"

# The data set of files that users have, see `image_folder`.
IMAGE_FOLDER = "image_folder"
_LARGEST_IN_MEMORY = 64  # pixels


class DatasetError(ValueError):
  """A data set is unknown, is missing, or does not fit the request."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """Describes a data set to the pipelines and to the networks.

  Attributes:
    name: Its name in configs.
    tfds_name: Its name in TFDS, or "module:Class" of a builder of our own.
    num_classes: Number of classes.
    image_shape: (height, width, channels) that networks see.
    mean: Mean of each channel, of pixel values in [0, 1], on the training set.
    std: Standard deviation of each channel, of the same values.
    train_splits: TFDS splits that make up the training set. A validation set
      is taken from the end of the first one.
    test_split: TFDS split of the test set.
    autoaugment_policy: Name of its AutoAugment policy.
    flip: True if a mirror image belongs to the same class.
    crop_padding: Pixels of padding before a random crop.
    needs_download: False if it is made from an installed package.
    manual_files: Files that users must download themselves.
    storage: "memory" for uint8 arrays in host memory, or "stream" for images
      that the host decodes, crops and resizes every time.
    label_column: TFDS feature of the labels to train on.
    clean_label_column: TFDS feature of the true labels.
    noisy_label_columns: Other features with labels.
    label_sets_column: TFDS feature with the set of all classes that an image
      shows, which may be empty; None if an image has one class.
    noisy_labels: True if training labels may be wrong; batches then carry the
      clean labels too. The function that loads the data set sets this field.
    class_names: Names of the classes, if they are known without the data.
    stored_shape: Shape of images in memory if `image_shape` is another one, to
      which the device resizes them. `with_image_size` sets this field.
    train_examples: Examples of `train_splits`, for estimates made without the
      data; None if nobody counted them.
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
  clean_label_column: str = CLEAN_LABEL
  noisy_label_columns: tuple[str, ...] = ()
  label_sets_column: str | None = None
  noisy_labels: bool = False
  class_names: tuple[str, ...] = ()
  stored_shape: tuple[int, int, int] | None = None
  train_examples: int | None = None

  @property
  def directory(self) -> str:
    """Name of the directory that TFDS keeps it in, without loading TFDS."""
    # TFDS names the directory after the class; our modules have that name too.
    name, colon, _ = self.tfds_name.partition(":")
    return name.rpartition(".")[2] if colon else name

  @property
  def label_columns(self) -> tuple[str, ...]:
    """Names of all TFDS features that hold labels, the clean one first."""
    return (self.clean_label_column, *self.noisy_label_columns)

  def with_image_size(self, size: int) -> "DatasetSpec":
    """Return the same data set with square images of another size."""
    shape = (size, size, self.image_shape[-1])
    stored = None if self.storage == STREAM else self.shape_in_memory
    return dataclasses.replace(self, image_shape=shape, stored_shape=stored)

  @property
  def shape_in_memory(self) -> tuple[int, int, int]:
    """Shape of the images that the host holds, (height, width, channels)."""
    return self.stored_shape or self.image_shape

  def with_label_column(self, column: str) -> "DatasetSpec":
    """Return the same data set, trained on the labels of another column.

    Args:
      column: One of `label_columns`.

    Raises:
      DatasetError: The data set has no such column.
    """
    if column not in self.label_columns:
      raise DatasetError(
        f"config.dataset.label_column = {column!r}: {self.name} has only"
        f" {', '.join(self.label_columns)}."
      )
    return dataclasses.replace(self, label_column=column)

  def check_image_shape(self, stored: Sequence[int | None] | None) -> None:
    """Compare `image_shape` with the images of the prepared data.

    Args:
      stored: (height, width, channels) of the images; None for a dimension in
        which they differ, or for all of them.

    Raises:
      DatasetError: The shapes differ.
    """
    height, width, channels = stored or (None, None, None)
    if self.storage == STREAM:
      # The host makes squares of three channels from images of any shape.
      height, width, channels = self.image_shape[0], self.image_shape[0], 3
    elif None in (height, width, channels):
      raise self.mismatch("storage", "images of different shapes")
    if (height, width, channels) != self.shape_in_memory:
      raise self.mismatch("image_shape", f"{(height, width, channels)}")

  def check_labels(self, labels: np.ndarray) -> None:
    """Compare `num_classes` with labels int [N] of the prepared data.

    Raises:
      DatasetError: A label is not in [0, num_classes).
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
      found = f"labels from {labels.min()} to {labels.max()}"
      raise self.mismatch("num_classes", found)

  def mismatch(self, field: str, found: str) -> DatasetError:
    """Return the error that a field differs from what the data have.

    Args:
      field: Name of the field.
      found: The data's value, in words.
    """
    return DatasetError(
      f"Data set {self.name!r}: its DatasetSpec says {field} ="
      f" {getattr(self, field)!r}, but its data have {found}. Correct the"
      " DatasetSpec, or prepare the data again."
    )


# Statistics are those of google-research/sam: MNIST's for Fashion-MNIST, too.
_CIFAR10 = DatasetSpec(
  name="cifar10",
  tfds_name="cifar10",
  num_classes=10,
  image_shape=(32, 32, 3),
  mean=(0.49139968, 0.48215841, 0.44653091),
  std=(0.24703223, 0.24348513, 0.26158784),
  train_examples=50_000,
)
_CIFAR100 = DatasetSpec(
  name="cifar100",
  tfds_name="cifar100",
  num_classes=100,
  image_shape=(32, 32, 3),
  mean=(0.50707516, 0.48654887, 0.44091784),
  std=(0.26733429, 0.25643846, 0.27615047),
  train_examples=50_000,
)
_MNIST = DatasetSpec(
  name="mnist",
  tfds_name="mnist",
  num_classes=10,
  image_shape=(28, 28, 1),
  mean=(0.1307,),
  std=(0.3081,),
  flip=False,
  train_examples=60_000,
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
  train_examples=1_281_167,
)


def _like_imagenet(name: str, num_classes: int, **fields: Any) -> DatasetSpec:
  """Return the spec of a data set that is preprocessed like ImageNet."""
  defaults: dict[str, Any] = {"tfds_name": name, "test_split": "test"}
  defaults |= {"manual_files": "", "train_examples": None}
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
    train_examples=1_442,
  ),
  _CIFAR10,
  _CIFAR100,
  # CIFAR with labels by crowd workers (Wei et al., ICLR 2022). CIFAR-10 was
  # labeled by three: worse_label is a wrong one if there is any (40% wrong),
  # aggre_label their majority (9%), random_label1 to 3 are one worker each
  # (18%). CIFAR-100 was labeled by one (40%).
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
    train_examples=604_388,
  ),
  dataclasses.replace(
    _MNIST, name="fashion_mnist", tfds_name="fashion_mnist", flip=True
  ),
  _MNIST,
  dataclasses.replace(_MNIST, name="kmnist", tfds_name="kmnist"),
  _IMAGENET,
  # Splits of those for fine-tuning: Kornblith et al. (CVPR 2019), table 1.
  _like_imagenet(  # 47,386 and 2,443, the images that Flickr still had
    "birdsnap",
    500,
    train_examples=47_386,
    tfds_name="sam_jax.datasets.builders.birdsnap:Birdsnap",
    manual_files="birdsnap/images, the images that Flickr still had",
  ),
  _like_imagenet(  # 8,144 and 8,041
    "stanford_cars",
    196,
    train_examples=8_144,
    tfds_name="sam_jax.datasets.builders.cars196:Cars196",
    manual_files="cars_train.tgz, cars_test.tgz, car_devkit.tgz and"
    " cars_test_annos_withlabels.mat",
  ),
  _like_imagenet(  # 2,040 and 6,149
    "oxford_flowers102",
    102,
    train_examples=2_040,
    train_splits=("train", "validation"),
  ),
  _like_imagenet(  # 6,667 and 3,333
    "fgvc_aircraft",
    100,
    train_examples=6_667,
    tfds_name="sam_jax.datasets.builders.fgvc_aircraft:FgvcAircraft",
    train_splits=("train", "validation"),
  ),
  _like_imagenet("oxford_iiit_pet", 37, train_examples=3_680),  # and 3,669
  _like_imagenet(  # 75,750 and 25,250
    "food101", 101, train_examples=75_750, test_split="validation"
  ),
)


# No config can train on these: their training split is their test split.
_EVALUATION_SETS = (
  # Recht et al. (ICML 2019). Papers report the one of matched frequency.
  *(
    _like_imagenet(
      name, 1000, tfds_name=f"imagenet_v2/{variant}", train_splits=("test",)
    )
    for name, variant in (
      ("imagenet_v2", "matched-frequency"),
      ("imagenet_v2_threshold_0.7", "threshold-0.7"),
      ("imagenet_v2_topimages", "topimages"),
    )
  ),
  # Beyer et al. (2020): labeled again, with none, one or several classes.
  _like_imagenet(
    "imagenet_real",
    1000,
    tfds_name="imagenet2012_real",
    train_splits=("validation",),
    test_split="validation",
    manual_files="ILSVRC2012_img_val.tar",
    label_column="original_label",
    clean_label_column="original_label",
    label_sets_column="real_label",
  ),
)
_BY_NAME = {spec.name: spec for spec in (*_SPECS, *_EVALUATION_SETS)}


def image_folder_spec(class_names: Sequence[str], size: int) -> DatasetSpec:
  """Return the description of a data set of image files.

  Images up to 64 pixels are kept in memory and augmented like CIFAR; larger
  ones are streamed and cropped like ImageNet, whose normalization both have.

  Args:
    class_names: Names of the classes.
    size: Side in pixels of the images that the network sees.
  """
  is_small = size <= _LARGEST_IN_MEMORY
  return dataclasses.replace(
    _IMAGENET,
    name=IMAGE_FOLDER,
    tfds_name="",
    manual_files="",
    needs_download=False,
    num_classes=len(class_names),
    class_names=tuple(class_names),
    image_shape=(size, size, 3),
    storage=IN_MEMORY if is_small else STREAM,
    autoaugment_policy="cifar10" if is_small else "imagenet",
    crop_padding=max(size // 8, 1) if is_small else 0,
  )


def prepared_datasets() -> list[str]:
  """Return the names of the data sets that TFDS prepares."""
  return list(_BY_NAME)


def known_datasets() -> list[str]:
  """Return the names of the data sets that configs can ask for."""
  return [*(spec.name for spec in _SPECS), IMAGE_FOLDER]


def evaluation_sets() -> list[str]:
  """Return the names of the data sets that have a test set alone."""
  return [spec.name for spec in _EVALUATION_SETS]


def dataset_spec(name: str) -> DatasetSpec:
  """Look up a data set that TFDS prepares.

  Raises:
    DatasetError: No data set has that name.
  """
  if name in _BY_NAME:
    return _BY_NAME[name]
  close = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.4)
  hint = f" Did you mean {close[0]!r}?" if close else ""
  raise DatasetError(
    f"Data set {name!r} is unknown. Known: {', '.join(_BY_NAME)}.{hint}"
  )
