"""Random access to the TFRecord files that TFDS writes.

An index of where each record starts is made once and kept. Then any record is
read separately: there is no shuffle buffer, and a restart or a host reads
nothing but its own examples.
"""

import logging
import os
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np
from etils import epath

from sam_jax.datasets import array_cache, bucket_files, tfds_files
from sam_jax.datasets.bucket_files import BYTES_AFTER, BYTES_BEFORE
from sam_jax.datasets.catalog import CLEAN_LABEL, DatasetError, DatasetSpec

logger = logging.getLogger(__name__)


class RecordFiles:
  """The records of some TFDS splits, numbered in the order of the splits.

  Attributes:
    paths: The files.
    file_of_record: int32 [N], index into `paths`.
    offset_of_record: int64 [N], first byte of the record in its file.
  """

  def __init__(
    self,
    spec: DatasetSpec,
    builder: Any,
    splits: tuple[str, ...],
    data_dir: str | None,
  ):
    """Find the records, or read an index of them from the cache.

    Args:
      spec: The data set.
      builder: Its TFDS builder, prepared.
      splits: TFDS splits.
      data_dir: TFDS's data directory; None for its default.

    Raises:
      DatasetError: A split is missing or damaged, or is not stored as TFRecord
        files.
    """
    if builder.info.file_format.value != "tfrecord":
      raise DatasetError(
        f"Data set {spec.name!r} at {builder.data_path} is stored as"
        f" {builder.info.file_format.value}; only tfrecord can be streamed:"
        " remove that directory and prepare it again."
      )
    self.paths: list[str] = []
    self._splits: list[tuple[str, int]] = []  # (name, its first record)
    files: list[np.ndarray] = []
    offsets: list[np.ndarray] = []
    for split in splits:
      self._splits.append((split, sum(map(len, offsets))))
      paths, source = tfds_files.split_files(spec, builder, split)
      cache = array_cache.cache_dir(data_dir, "records", spec.name, split)
      index = array_cache.read_arrays(cache, source)
      if index is None:
        index = _make_index(find_records(spec, builder, split))
        array_cache.write_arrays(cache, index, source)
      files.append(index["file"] + len(self.paths))
      offsets.append(index["offset"])
      self.paths += map(os.fspath, paths)
    self.file_of_record = np.concatenate(files).astype(np.int32)
    self.offset_of_record = np.concatenate(offsets)

  def describe(self, number: int) -> str:
    """Return the split, the number and the file of a record, for a message."""
    split, first = [pair for pair in self._splits if pair[1] <= number][-1]
    path = self.paths[self.file_of_record[number]]
    return f"record {number - first} of split {split!r}, in {path}"

  def __len__(self) -> int:
    return len(self.offset_of_record)


def read_record(path: Any, offset: Any, *, is_remote: bool = False) -> Any:
  """Read one record with an operation of TensorFlow.

  Args:
    path: Path of the file, string [].
    offset: First byte of the record, int64 [].
    is_remote: True if the file is in a bucket.

  Returns:
    The record's data, string [].
  """
  import tensorflow as tf

  if is_remote:
    inputs = [path, offset]
    record = tf.numpy_function(bucket_files.read_record, inputs, tf.string)
    return tf.ensure_shape(record, [])
  kind = {"output_types": [tf.string], "output_shapes": [[]]}
  records = tf.raw_ops.TFRecordDatasetV2(
    filenames=[path],
    compression_type="",
    buffer_size=0,  # It would hold the next record, which nothing reads.
    byte_offsets=[offset],
  )
  first = tf.raw_ops.TakeDataset(input_dataset=records, count=1, **kind)
  return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]


def find_records(
  spec: DatasetSpec, builder: Any, split: str
) -> list[np.ndarray]:
  """Find the records of each of a split's files.

  Returns:
    For each file, the first bytes of its records, int64 [n].

  Raises:
    DatasetError: The split is missing, or one of its files is damaged.
  """
  paths, _ = tfds_files.split_files(spec, builder, split)
  counts = tfds_files.split_info(spec, builder, split).shard_lengths
  with futures.ThreadPoolExecutor(16) as pool:
    found = list(pool.map(_find_records_of, paths))
  for path, (offsets, is_cut), count in zip(paths, found, counts, strict=True):
    if is_cut or len(offsets) != count:
      problem = f"{path.name} holds {len(offsets) - is_cut} of {count} records"
      raise tfds_files.damaged(spec, builder, problem)
  return [offsets for offsets, _ in found]


def load_labels(
  spec: DatasetSpec, builder: Any, data_dir: str | None
) -> np.ndarray:
  """Load the clean labels of the training splits.

  Reading them means reading all records, so they are read once and cached.

  Args:
    spec: The data set.
    builder: Its TFDS builder, prepared.
    data_dir: TFDS's data directory; None for its default.

  Returns:
    int32 [N], in the order of `RecordFiles`.

  Raises:
    DatasetError: A file of the data set is damaged, or a label is out of range.
  """
  parts = []
  for split in spec.train_splits:
    paths, source = tfds_files.split_files(spec, builder, split)
    cache = array_cache.cache_dir(data_dir, "labels", spec.name, split)
    arrays = array_cache.read_arrays(cache, source)
    if arrays is None:
      logger.info("Reading the labels of %s, %s, once.", spec.name, split)
      with tfds_files.damage_reported(spec, builder):
        parts_of_split = [
          _read_labels(local) for local in bucket_files.local_files(paths)
        ]
      arrays = {"label": np.concatenate(parts_of_split)}
      array_cache.write_arrays(cache, arrays, source)
    parts.append(arrays["label"])
  labels = np.concatenate(parts)
  spec.check_labels(labels)
  return labels


def _read_labels(paths: Sequence[epath.Path]) -> np.ndarray:
  import tensorflow as tf

  feature = {CLEAN_LABEL: tf.io.FixedLenFeature([], tf.int64)}

  def parse(batch: Any) -> Any:
    return tf.io.parse_example(batch, feature)[CLEAN_LABEL]

  batches = tf.data.TFRecordDataset(paths).batch(64)
  batches = batches.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
  return np.concatenate(list(batches.as_numpy_iterator())).astype(np.int32)


def _make_index(offsets: list[np.ndarray]) -> array_cache.Arrays:
  """Return the file and the offset of every record of some files."""
  counts = [len(part) for part in offsets]
  return {
    "file": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
    "offset": np.concatenate(offsets),
  }


def _find_records_of(path: epath.Path) -> tuple[np.ndarray, bool]:
  """Return the first bytes of a file's records; True if the last one is cut."""
  size = path.stat().length
  offsets, position = [], 0
  with path.open("rb") as file:
    while position < size:
      offsets.append(position)
      file.seek(position)
      length = int.from_bytes(file.read(8), "little")
      position += BYTES_BEFORE + length + BYTES_AFTER
  return np.array(offsets, np.int64), position > size
