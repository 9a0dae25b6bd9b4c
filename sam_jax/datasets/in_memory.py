"""Small data sets: all images in host memory, batches decided by the step."""

import dataclasses
import logging
import zlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from etils import epath

from sam_jax.datasets import (
  array_cache,
  bucket_files,
  labels,
  tfds_files,
  tfrecords,
)
from sam_jax.datasets.catalog import CLEAN_LABEL, DatasetError, DatasetSpec
from sam_jax.datasets.image_folder import ImageFolder
from sam_jax.datasets.sampler import Sampler

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]

# Bytes at the start of a file that tell it from another one of the same size.
_HEAD_BYTES = 64 * 1024


class Concatenated:
  """Arrays end to end without a copy: memory-mapped parts stay on the disk.

  It stands for np.concatenate(parts) where examples are taken from it.

  Attributes:
    shape: (N, ...), N the sum over the parts.
    dtype: That of the parts.
  """

  def __init__(self, parts: Sequence[np.ndarray]):
    """Take arrays [n, ...] that differ in n alone."""
    self._parts = parts
    self._ends = np.cumsum([len(part) for part in parts])
    self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
    self.dtype = parts[0].dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, where: np.ndarray | slice) -> np.ndarray:
    """Return the examples of a slice, or with numbers int [n] from 0 on."""
    if isinstance(where, slice):
      where = np.arange(*where.indices(len(self)))
    taken = np.empty((len(where), *self.shape[1:]), self.dtype)
    part_of = np.searchsorted(self._ends, where, side="right")
    for i, part in enumerate(self._parts):
      chosen = part_of == i
      taken[chosen] = part[where[chosen] - (self._ends[i] - len(part))]
    return taken

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    return np.asarray(np.concatenate(self._parts), dtype)


class InMemoryDataset:
  """Training and evaluation batches of a data set that fits into memory.

  `Sampler` decides which examples make up a batch.

  Attributes:
    spec: The data set.
    num_train: Number of training examples.
    steps_per_epoch: Whole batches in the training set.
    folder: The images by name, of a data set of image files.
  """

  folder: ImageFolder | None = None

  def __init__(
    self,
    spec: DatasetSpec,
    train: tuple[np.ndarray | Concatenated, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    clean_train_labels: np.ndarray | None = None,
    **sampling: Any,
  ):
    """Take the examples of both splits.

    Args:
      spec: The data set.
      train: uint8 images [N, H, W, C] and int32 labels [N] to train on; images
        may be `Concatenated`.
      test: uint8 images [M, H, W, C] and int32 labels [M] to evaluate on.
      clean_train_labels: int32 [N], the true labels of the training set if
        those to train on may be wrong.
      **sampling: The keyword arguments of `Sampler`.

    Raises:
      DatasetError: The training set is smaller than a batch, or a label is out
        of range.
    """
    images, train_labels = train
    self.num_train = len(images)
    self._sampler = Sampler(spec, self.num_train, **sampling)
    self.steps_per_epoch = self._sampler.steps_per_epoch
    self._train: dict[str, Any] = {"image": images, "label": train_labels}
    if clean_train_labels is not None:
      spec = dataclasses.replace(spec, noisy_labels=True)
      self._train["clean_label"] = clean_train_labels
    self.spec = spec
    clean = self._train.get("clean_label", train_labels)
    for found in (train_labels, clean, test[1]):
      spec.check_labels(found)
    self._eval_splits: dict[str, dict[str, Any]] = {
      "test": {"image": test[0], "label": test[1]},
      "train": {"image": images, "label": clean},
    }

  def training_arrays(self) -> tuple[np.ndarray | Concatenated, np.ndarray]:
    """Return the training images and the labels to train on.

    Returns:
      uint8 [N, H, W, C], `Concatenated` if they are of several splits, and
      int32 [N].
    """
    return self._train["image"], self._train["label"]

  def train_batches(self, first_step: int) -> Iterator[Batch]:
    """Yield this host's part of the batches of first_step, first_step + 1...

    Yields:
      `image` uint8 [n, H, W, C] and `label` int32 [n], n = batch_size / hosts;
      `clean_label` int32 [n] if labels may be wrong.
    """
    for _, mine in self._sampler.train_indices(first_step):
      yield {name: array[mine] for name, array in self._train.items()}

  def eval_batches(self, split: str) -> Iterator[Batch]:
    """Yield this host's part of every example of a split, once, in order.

    Args:
      split: "test", or "train" for training images with their clean labels.

    Yields:
      `image` uint8 [n, H, W, C], `label` int32 [n] and `mask` float32 [n]: 0
      marks padding, which gives all batches of all hosts the same size.
    """
    arrays = self._eval_splits[split]
    for mine, mask in self._sampler.eval_indices(len(arrays["label"])):
      batch = {name: array[mine] for name, array in arrays.items()}
      yield {**batch, "mask": mask}


def load_in_memory(
  spec: DatasetSpec,
  *,
  data_dir: str | None,
  validation_size: int,
  part: int = 0,
  parts: int = 1,
  noise_rate: float = 0.0,
  noise_kind: str = "symmetric",
  noise_seed: int = 0,
  labels_path: epath.PathLike | None = None,
  **sampling: Any,
) -> InMemoryDataset:
  """Load a data set through TFDS, with the training labels asked for.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.
    validation_size: If positive, that many examples at the end of the first
      training split are held out and take the place of the test set, with
      clean labels.
    part: Number of the part of the training set to keep, see `part_of`.
    parts: Number of these parts.
    noise_rate: See `labels.corrupt_labels`.
    noise_kind: See `labels.corrupt_labels`.
    noise_seed: See `labels.corrupt_labels`.
    labels_path: See `labels.read_labels`; None for the labels of TFDS.
    **sampling: The keyword arguments of `Sampler`.

  Raises:
    DatasetError: The data set was never prepared, is damaged, differs from its
      spec, or is too small for the validation set.
  """
  train, test = _load_splits(spec, data_dir, validation_size)
  if parts > 1:
    kept = part_of(len(train[CLEAN_LABEL]), part, parts)
    train = {name: array[kept] for name, array in train.items()}
  clean, given = train[CLEAN_LABEL], train[spec.label_column]
  if labels_path:
    given = labels.read_labels(labels_path, len(clean), spec.num_classes)
  given = labels.corrupt_labels(
    given, spec.num_classes, noise_rate, noise_kind, noise_seed
  )
  may_be_wrong = (
    noise_rate > 0 or labels_path or spec.label_column != CLEAN_LABEL
  )
  if may_be_wrong:
    wrong = np.mean(given != clean)
    logger.info("%.1f%% of the training labels are wrong.", 100 * wrong)
  return InMemoryDataset(
    spec,
    (train["image"], given),
    (test["image"], test[CLEAN_LABEL]),
    clean_train_labels=clean if may_be_wrong else None,
    **sampling,
  )


def part_of(num_examples: int, part: int, parts: int) -> np.ndarray:
  """Return the examples of one of several disjoint random parts, int [n].

  The parts have equal sizes n = num_examples // parts, and are the same in
  every run: runs with other seeds may train on the same part.
  """
  order = np.random.default_rng(0).permutation(num_examples)
  size = num_examples // parts
  return np.sort(order[part * size : (part + 1) * size])


def _load_splits(
  spec: DatasetSpec, data_dir: str | None, validation_size: int
) -> tuple[dict[str, Any], array_cache.Arrays]:
  """Return the arrays to train on, and those to evaluate on."""
  first, *rest = (
    load_split(spec, split, data_dir) for split in spec.train_splits
  )
  if validation_size:
    count = num_left_to_train(spec, len(first["label"]), validation_size)
    test = {name: array[count:] for name, array in first.items()}
    first = {name: array[:count] for name, array in first.items()}
  else:
    test = load_split(spec, spec.test_split, data_dir)
  if not rest:
    return first, test
  parts = {n: [arrays[n] for arrays in (first, *rest)] for n in first}
  train: dict[str, Any] = {
    n: np.concatenate(parts[n]) for n in spec.label_columns
  }
  # Images as many as SVHN's are best left on the disk.
  train["image"] = Concatenated(parts["image"])
  return train, test


def num_left_to_train(
  spec: DatasetSpec, num_examples: int, validation_size: int
) -> int:
  """Return how many examples of a split are not held out.

  Raises:
    DatasetError: No example is left.
  """
  count = num_examples - validation_size
  if count > 0:
    return count
  raise DatasetError(
    f"config.dataset.validation_size = {validation_size} leaves nothing of the"
    f" {num_examples} training examples of {spec.name}."
  )


def load_split(
  spec: DatasetSpec, split: str, data_dir: str | None
) -> array_cache.Arrays:
  """Return all examples of a split, in TFDS's order.

  The first call decodes the split through TFDS and TensorFlow; later calls map
  the cached arrays into memory and need neither.

  Args:
    spec: The data set.
    split: A TFDS split.
    data_dir: TFDS's data directory; None for its default.

  Returns:
    `image` uint8 [N, H, W, C], memory-mapped, `label` int32 [N], and each of
    the noisy label columns of the data set, int32 [N].

  Raises:
    DatasetError: The data set was never prepared, is damaged, or differs from
      its spec.
  """
  cache = array_cache.cache_dir(data_dir, "decoded", spec.name, split)
  arrays = array_cache.read_arrays(cache, _source(spec, split, data_dir))
  if arrays is None:
    arrays = _decode(spec, split, data_dir)
    # The files may have been prepared just now.
    array_cache.write_arrays(cache, arrays, _source(spec, split, data_dir))
  spec.check_image_shape(arrays["image"].shape[1:])
  # Noisy columns are -1 in the test set; `InMemoryDataset` checks the others.
  spec.check_labels(arrays[CLEAN_LABEL])
  return arrays


def _source(spec: DatasetSpec, split: str, data_dir: str | None) -> list[Any]:
  """Return what the decoded arrays of a split depend on.

  Cached arrays are valid for the same number of classes, which only TFDS can
  check, and the same files of every version of the data set. TFDS decides which
  version is read, so its own version counts. Files are compared without
  TensorFlow, by their names, sizes, and checksums of how they begin: images
  without compression are of one size.
  """
  directory = array_cache.data_root(data_dir) / spec.directory
  files = sorted(directory.glob(f"[0-9]*/*-{split}.*"))
  rows = tfds_files.names_and_sizes(files)
  for row, path in zip(rows, files, strict=True):
    with path.open("rb") as opened:
      row.append(zlib.crc32(opened.read(_HEAD_BYTES)))
  return [spec.num_classes, metadata.version("tensorflow-datasets"), *rows]


def _decode(
  spec: DatasetSpec, split: str, data_dir: str | None
) -> array_cache.Arrays:
  """Decode a split through TFDS; see `load_split`."""
  builder = tfds_files.prepared_builder(spec, data_dir)
  count = tfds_files.split_info(spec, builder, split).num_examples
  if builder.info.file_format.value == "tfrecord":
    tfrecords.find_records(spec, builder, split)  # as many, and whole
  import tensorflow_datasets as tfds

  tfds_files.hide_accelerators_from_tensorflow()
  shape = builder.info.features["image"].shape
  arrays = {"image": np.empty((count, *shape), np.uint8)}
  for column in spec.label_columns:
    arrays[column] = np.empty((count,), np.int32)
  with (
    bucket_files.local_copy(builder, split) as local,
    tfds_files.damage_reported(spec, builder),
  ):
    examples = tfds.as_numpy(local.as_dataset(split=split))
    for i, example in enumerate(examples):
      for name, array in arrays.items():
        array[i] = example[name]
  return arrays
