"""A directory of images: its classes, its splits and its files, by name.

Nothing is decoded here, see `image_files`. A data set is one of these:

- DIR/train/CLASS/*.jpg, and DIR/val, valid, validation or test in the same way;
- DIR/CLASS/*.jpg, of which a part is held out, drawn from a seed;
- FILE.csv with the columns path, label and, if wanted, split.
"""

import collections
import dataclasses
import logging
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from sam_jax import buckets, paths, wording
from sam_jax.datasets import file_lists, image_csv
from sam_jax.datasets.catalog import DatasetError
from sam_jax.datasets.file_lists import Files, error
from sam_jax.datasets.image_csv import TEST_SPLITS, TRAIN_SPLITS, Row

logger = logging.getLogger(__name__)

_HELD_OUT = 0.2  # of the images, without a test set
_NAMED = 5  # files in a message; the log has all


@dataclasses.dataclass(frozen=True)
class Images:
  """The images of a split, sorted by class and name.

  Attributes:
    files: Their files.
    labels: int32 [N].
  """

  files: Files
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, where: np.ndarray) -> "Images":
    """Return some of the images, by numbers int [n] or a mask bool [N]."""
    return Images(self.files.take(where), self.labels[where])


@dataclasses.dataclass(frozen=True)
class ImageFolder:
  """A data set of image files.

  Attributes:
    root: The directory, or that of the CSV file; names of files are below it.
    class_names: The classes, sorted by name.
    train: Images to train on.
    test: Images to evaluate on.
  """

  root: epath.Path
  class_names: tuple[str, ...]
  train: Images
  test: Images

  @property
  def fingerprint(self) -> str:
    """A checksum of the classes, splits, names and sizes of the files.

    It is the same for a copy of the directory in another place.
    """
    crc = zlib.crc32("\n".join(self.class_names).encode())
    for split in (self.train, self.test):
      crc = zlib.crc32("\n".join(split.files.names).encode(), crc)
      crc = zlib.crc32(split.labels.tobytes(), crc)
      crc = zlib.crc32(split.files.sizes.tobytes(), crc)
    return f"{crc:08x}"

  def without(self, broken: Mapping[str, str]) -> "ImageFolder":
    """Return the data set without some files, given by name."""

    def whole(images: Images) -> Images:
      is_whole = [name not in broken for name in images.files.names]
      return images.take(np.array(is_whole, bool))

    return dataclasses.replace(
      self, train=whole(self.train), test=whole(self.test)
    )

  def check(self) -> None:
    """Check that there is something to learn, and something to evaluate on.

    Raises:
      DatasetError: There is one class, a class has no training image, or no
        test image is there.
    """
    if len(self.class_names) == 1:
      raise error(
        self.root,
        f"{self.class_names[0]!r} is its only class. Add another one: a network"
        " learns to tell classes apart.",
      )
    counts = np.bincount(self.train.labels, minlength=len(self.class_names))
    for name, count in zip(self.class_names, counts, strict=True):
      if not count:
        raise error(
          self.root,
          f"class {name!r} has no image to train on. Add images, or remove the"
          " class.",
        )
    if not len(self.test):
      raise error(
        self.root,
        "there is no image to evaluate on. Add images to its test set, or hold"
        " some out by config.dataset.validation_size.",
      )


def find_class_names(data_dir: str | None) -> tuple[str, ...]:
  """Return the names of the classes, sorted, without a look at the images.

  Args:
    data_dir: The directory, or the CSV file.

  Raises:
    DatasetError: It is missing, or has no classes.
  """
  return _class_names_in(_existing(data_dir))


def _class_names_in(path: epath.Path) -> tuple[str, ...]:
  """Do what `find_class_names` does, for a path that exists."""
  if _is_csv(path):
    return _class_names_of(image_csv.read(path))
  train, _ = _split_directories(path)
  names = tuple(file_lists.directories(train))
  if not names:
    raise error(
      train,
      "there is no directory of a class. Put the images of each class into a"
      " directory of its own, or list paths and labels in a CSV file.",
    )
  return names


def has_test_split(data_dir: str) -> bool:
  """Return True if a data set says which images to evaluate on."""
  path = _existing(data_dir)
  if _is_csv(path):
    return any(row.split in TEST_SPLITS for row in image_csv.read(path))
  return _split_directories(path)[1] is not None


def find(
  data_dir: str, *, validation_size: int = 0, split_seed: int = 0
) -> ImageFolder:
  """Find the images of a data set.

  Args:
    data_dir: The directory, or the CSV file.
    validation_size: If positive, that many training images take the place of
      the test set. Otherwise they do if there is no test set: a fifth.
    split_seed: Decides which ones; each class has its share.

  Raises:
    DatasetError: The data set is missing, or has no images or classes; or its
      test set has other classes.
  """
  path = _existing(data_dir)
  if _is_csv(path):
    rows = image_csv.read(path)
    names = _class_names_of(rows)
    root, (train, test) = path.parent, _images_of_csv(path, rows, names)
  else:
    names = _class_names_in(path)
    root, (train, test) = path, _images_of_directory(path, names)
  if not len(train):
    raise error(path, "there is no image to train on.")
  if validation_size or not len(test):
    count = validation_size or max(round(_HELD_OUT * len(train)), 1)
    if count >= len(train):
      raise error(
        path,
        f"config.dataset.validation_size = {count} leaves nothing of its"
        f" {wording.count(len(train), 'image')} to train on.",
      )
    is_held_out = hold_out(train.labels, count, split_seed)
    train, test = train.take(~is_held_out), train.take(is_held_out)
  folder = ImageFolder(root, names, train, test)
  folder.check()
  return folder


def hold_out(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Choose examples at random, of each class its share.

  Args:
    labels: int [N].
    count: Number of examples to choose.
    seed: Decides which ones.

  Returns:
    bool [N], `count` of them True.
  """
  random = np.random.default_rng((seed, 0xF01D))
  order = random.permutation(len(labels))
  order = order[np.argsort(labels[order], kind="stable")]  # by class
  sizes = np.bincount(labels)
  starts = np.cumsum(sizes) - sizes
  of_class = labels[order]
  rank = (np.arange(len(labels)) - starts[of_class] + 0.5) / sizes[of_class]
  chosen = order[np.lexsort((random.random(len(labels)), rank))[:count]]
  is_chosen = np.zeros(len(labels), bool)
  is_chosen[chosen] = True
  return is_chosen


def find_to_evaluate(
  data_dir: str, class_names: Sequence[str], split: str
) -> tuple[ImageFolder, bool]:
  """Find images for the evaluation of a network.

  Args:
    data_dir: The directory, or the CSV file. A directory of images without
      classes is allowed: their labels are all 0.
    class_names: The classes of the network, in the order of its labels.
    split: "test" or "train". Without splits, all images are the test set.

  Returns:
    The data set, whose `train` has the images of the split; True if it has
    labels.

  Raises:
    DatasetError: It is missing or empty, or has other classes.
  """
  path = _existing(data_dir)
  root = path.parent if _is_csv(path) else path
  has_labels = _is_csv(path) or bool(file_lists.directories(path))
  if not has_labels:
    files = file_lists.find(path, [""])
    images = Images(files, np.zeros(len(files), np.int32))
  else:
    if _is_csv(path):
      rows = image_csv.read(path)
      train, test = _images_of_csv(path, rows, class_names)
    else:
      train, test = _images_of_directory(path, class_names)
    images = train if split == "train" or not len(test) else test
  if not len(images):
    raise error(path, "there is no image. Add images, or correct the path.")
  nothing = images.take(np.zeros(len(images), bool))
  return ImageFolder(root, tuple(class_names), images, nothing), has_labels


def _existing(data_dir: str | None) -> epath.Path:
  """Return the path of a data set; refuse what is neither.

  Raises:
    DatasetError: There is no such directory, nor such a CSV file.
  """
  if not data_dir:
    raise DatasetError(
      "config.dataset.name = 'image_folder' needs config.dataset.data_dir: the"
      " directory of the images, or a CSV file."
    )
  path = paths.resolve(data_dir)
  buckets.check(path, "config.dataset.data_dir")
  if _is_csv(path):
    if not path.exists():
      raise error(path, "there is no such file. Correct its path.")
  elif not path.exists():
    raise error(path, "there is no such directory. Correct its path.")
  elif not path.is_dir():
    raise error(path, "it must be a directory, or a CSV file named *.csv.")
  return path


def _is_csv(path: epath.Path) -> bool:
  return path.suffix.lower() == ".csv" and not path.is_dir()


def _split_directories(
  path: epath.Path,
) -> tuple[epath.Path, epath.Path | None]:
  """Return the directories of the training and the test set.

  Without such directories, the data set itself has the training set.

  Raises:
    DatasetError: There is a test set alone.
  """
  names = file_lists.directories(path)
  train = [name for name in TRAIN_SPLITS if name in names]
  test = [name for name in TEST_SPLITS if name in names]
  if not train and names and set(names) <= set(TEST_SPLITS):
    raise error(
      path,
      f"it has {', '.join(names)} and no train. Name the directory to train on"
      " 'train'.",
    )
  if not train:
    return path, None
  if len(test) > 1:
    logger.info(
      "Image folder %s: evaluating on %s, not on %s.",
      path,
      test[0],
      ", ".join(test[1:]),
    )
  return path / train[0], path / test[0] if test else None


def _images_of_directory(
  path: epath.Path, class_names: Sequence[str]
) -> tuple[Images, Images]:
  """Return the images of the training set and of the test set, if any."""
  number = {name: i for i, name in enumerate(class_names)}
  splits = []
  for directory in _split_directories(path):
    if directory is None:
      splits.append(Images(file_lists.find(path, []), np.zeros(0, np.int32)))
      continue
    names = file_lists.directories(directory)
    _check_classes(directory, names, class_names)
    prefix = "" if directory == path else f"{directory.name}/"
    files = file_lists.find(path, [f"{prefix}{name}/" for name in names])
    parts = (name.removeprefix(prefix) for name in files.names)
    labels = [number[part.partition("/")[0]] for part in parts]
    splits.append(Images(files, np.array(labels, np.int32)))
    _check_not_empty(directory, names, splits[-1], number)
  return splits[0], splits[1]


def _check_classes(
  place: epath.Path, found: Sequence[str], known: Sequence[str]
) -> None:
  """Check that all classes of a split are known.

  Raises:
    DatasetError: One is not.
  """
  others = sorted(set(found) - set(known))
  if others:
    shown = ", ".join(map(repr, others[:_NAMED]))
    classes = wording.count(len(others), "class", "classes")
    raise error(
      place,
      f"{classes} not in the training set: {shown}. Rename or remove them.",
    )


def _check_not_empty(
  place: epath.Path,
  names: Sequence[str],
  images: Images,
  number: Mapping[str, int],
) -> None:
  """Check that each directory of a class has an image.

  Raises:
    DatasetError: One has not.
  """
  counts = collections.Counter(images.labels.tolist())
  for name in names:
    if not counts[number[name]]:
      raise error(
        place / name,
        f"there is no image ({', '.join(file_lists.EXTENSIONS)}). Add images,"
        " or remove the directory.",
      )


def _class_names_of(rows: Sequence[Row]) -> tuple[str, ...]:
  return tuple(sorted({row.label for row in rows if row.split in TRAIN_SPLITS}))


def _images_of_csv(
  path: epath.Path, rows: Sequence[Row], class_names: Sequence[str]
) -> tuple[Images, Images]:
  """Return the images of the training set and of the test set, if any."""
  _check_classes(path, [row.label for row in rows], class_names)
  number = {name: i for i, name in enumerate(class_names)}
  rows = sorted(rows, key=lambda row: (number[row.label], row.path))
  found = {row.split for row in rows}
  test = [name for name in TEST_SPLITS if name in found]
  splits = []
  for names in (TRAIN_SPLITS, test[:1]):
    chosen = [row for row in rows if row.split in names]
    files = file_lists.stat(path.parent, [row.path for row in chosen])
    for row, size in zip(chosen, files.sizes, strict=True):
      if size < 0:
        raise error(
          path,
          f"line {row.line}: there is no file {row.path}. Paths are those below"
          f" {path.parent}, or absolute.",
        )
    labels = [number[row.label] for row in chosen]
    splits.append(Images(files, np.array(labels, np.int32)))
  return splits[0], splits[1]
