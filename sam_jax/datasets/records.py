"""Random access to the TFRecord files that TFDS writes.

A data set too large for memory is still read in any order: an index of where
each record starts is made once and kept, and every record is read by itself.
No shuffle buffer, no reading past what a restart or another host does not need.
"""

import os
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
      DatasetError: A split is missing, or is not stored as TFRecord files.
    """
    if builder.info.file_format.value != "tfrecord":
      raise catalog.DatasetError(
        f"Data set {spec.name!r} at {builder.data_path} is stored as"
        f" {builder.info.file_format.value}; only tfrecord can be streamed:"
        " remove that directory and prepare it again."
      )
    self.paths, files, offsets = [], [], []
    for split in splits:
      info = catalog.split_info(spec, builder, split)
      paths = [epath.Path(path) for path in info.filepaths]
      cache = array_cache.cache_dir(data_dir, "records", spec.name, split)
      index = _load_index(paths, cache)
      files.append(index["file"] + len(self.paths))
      offsets.append(index["offset"])
      self.paths += [os.fspath(path) for path in paths]
    self.file_of_record = np.concatenate(files).astype(np.int32)
    self.offset_of_record = np.concatenate(offsets)

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


def _load_index(paths, cache) -> array_cache.Arrays:
  """The index of some files; made anew if they are not those of the cache."""
  sizes = np.array([path.stat().length for path in paths], np.int64)
  index = array_cache.read_arrays(cache)
  if index is not None and np.array_equal(index["file_size"], sizes):
    return index
  with futures.ThreadPoolExecutor(16) as pool:
    offsets = list(pool.map(_find_records, paths, sizes))
  counts = [len(part) for part in offsets]
  index = {
    "file_size": sizes,
    "file": np.repeat(np.arange(len(paths), dtype=np.int32), counts),
    "offset": np.concatenate(offsets),
  }
  array_cache.write_arrays(cache, index)
  return index


def _find_records(path: epath.Path, size: int) -> np.ndarray:
  """First bytes of the records of a file, from the lengths before them."""
  offsets, position = [], 0
  with path.open("rb") as file:
    while position < size:
      offsets.append(position)
      file.seek(position)
      length = int.from_bytes(file.read(8), "little")
      position += _BYTES_BEFORE + length + _BYTES_AFTER
  return np.array(offsets, np.int64)
