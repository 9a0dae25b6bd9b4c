"""Random access to the TFRecord files that TFDS writes.

A data set too large for memory is still read in any order: an index of where
each record starts is made once and kept, and every record is read by itself.
No shuffle buffer, no reading past what a restart or another host does not need.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
from etils import epath

from sam_jax.datasets import array_cache, catalog

# A record: its length (8 bytes), a checksum (4), the data, a checksum (4).
_BYTES_BEFORE, _BYTES_AFTER = 12, 4
# What a read fetches at once: a typical image in one request.
_READ_BYTES = 256 * 1024


class RecordFiles:
  """The records of some TFDS splits, numbered in the order of the splits.

  Attributes:
    paths: The files.
    file_of_record: int32 [N], index into `paths`.
    offset_of_record: int64 [N], first byte of the record in its file.
  """

  def __init__(
    self,
    spec: catalog.DatasetSpec,
    builder: Any,
    splits: tuple[str, ...],
    data_dir: str | None,
  ):
    """Finds the records, with the help of an index kept beside the data.

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
      raise catalog.DatasetError(
        f"Data set {spec.name!r} at {builder.data_path} is stored as"
        f" {builder.info.file_format.value}; only tfrecord can be streamed:"
        " remove that directory and prepare it again."
      )
    self.paths, files, offsets = [], [], []
    self._splits = []  # (name, number of its first record)
    for split in splits:
      self._splits.append((split, sum(map(len, offsets))))
      paths, source = split_files(spec, builder, split)
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
    """Names a record for a message: which one of which split, in which file."""
    split, first = [pair for pair in self._splits if pair[1] <= number][-1]
    path = self.paths[self.file_of_record[number]]
    return f"record {number - first} of split {split!r}, in {path}"

  def __len__(self) -> int:
    return len(self.offset_of_record)


def read_record(path: Any, offset: Any) -> Any:
  """Reads one record, as an operation of TensorFlow.

  Args:
    path: Path of the file, string ().
    offset: First byte of the record, int64 ().

  Returns:
    The record's data, string ().
  """
  import tensorflow as tf

  kind = {"output_types": [tf.string], "output_shapes": [[]]}
  records = tf.raw_ops.TFRecordDatasetV2(
    filenames=[path],
    compression_type="",
    buffer_size=_READ_BYTES,
    byte_offsets=[offset],
  )
  first = tf.raw_ops.TakeDataset(input_dataset=records, count=1, **kind)
  return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]


def split_files(
  spec: catalog.DatasetSpec, builder: Any, split: str
) -> tuple[list[epath.Path], list[Any]]:
  """The files of a split, in order, and what tells them from others.

  Raises:
    DatasetError: The split or one of its files is missing.
  """
  info = catalog.split_info(spec, builder, split)
  paths = [epath.Path(path) for path in info.filepaths]
  try:
    return paths, names_and_sizes(paths)
  except Exception:  # gs:// has errors of its own
    for path in paths:
      if not path.exists():
        what = f"{path.name} is not there"
        raise catalog.damaged(spec, builder, what) from None
    raise


def names_and_sizes(paths: Iterable[epath.Path]) -> list[Any]:
  """What tells files from others: ["1.0.0/a-train.tfrecord", bytes] of each."""

  def tell(path):
    return ["/".join(path.parts[-2:]), path.stat().length]

  with futures.ThreadPoolExecutor(16) as pool:
    return list(pool.map(tell, paths))


def find_records(
  spec: catalog.DatasetSpec, builder: Any, split: str
) -> list[np.ndarray]:
  """Finds the records of each of a split's files.

  Returns:
    Of each file, the first bytes of its records, int64 [n].

  Raises:
    DatasetError: The split is missing, or one of its files is damaged.
  """
  paths, _ = split_files(spec, builder, split)
  counts = catalog.split_info(spec, builder, split).shard_lengths
  with futures.ThreadPoolExecutor(16) as pool:
    found = list(pool.map(_find_records_of, paths))
  for path, (offsets, is_cut), count in zip(paths, found, counts, strict=True):
    if is_cut or len(offsets) != count:
      what = f"{path.name} holds {len(offsets) - is_cut} of {count} records"
      raise catalog.damaged(spec, builder, what)
  return [offsets for offsets, _ in found]


@contextlib.contextmanager
def damage_is_named(spec: catalog.DatasetSpec, builder: Any) -> Iterator[None]:
  """Turns what TensorFlow says of damaged files into a DatasetError."""
  import tensorflow as tf

  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    raise catalog.damaged(spec, builder, reason(error)) from error


def reason(error: Any) -> str:
  """What one of TensorFlow's errors says, without where in its program."""
  text = re.sub(r"{{.*?}}|\[Op:.*|\n.*", "", error.message.strip())
  return text.strip().rstrip(".")


def _make_index(offsets: list[np.ndarray]) -> array_cache.Arrays:
  """Of every record of some files, which file it is in, and where."""
  counts = [len(part) for part in offsets]
  return {
    "file": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
    "offset": np.concatenate(offsets),
  }


def _find_records_of(path: epath.Path) -> tuple[np.ndarray, bool]:
  """First bytes of a file's records, and whether the last one is cut."""
  size = path.stat().length
  offsets, position = [], 0
  with path.open("rb") as file:
    while position < size:
      offsets.append(position)
      file.seek(position)
      length = int.from_bytes(file.read(8), "little")
      position += _BYTES_BEFORE + length + _BYTES_AFTER
  return np.array(offsets, np.int64), position > size
