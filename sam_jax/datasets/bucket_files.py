"""Data sets in a bucket: prepared, decoded and read without TensorFlow.

TFDS reads and writes records through TensorFlow, whose own client of buckets
has other credentials, timeouts and errors than `sam_jax.paths`. So TFDS works
on local files, which are copied from or to the bucket.
"""

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from sam_jax import buckets, paths

# Makes a prepared data set complete; TFDS reads its splits from it.
_INFO = "dataset_info.json"

# A record: its length (8 bytes), a checksum (4), the data, a checksum (4).
BYTES_BEFORE, BYTES_AFTER = 12, 4
# Bytes that one read fetches: a typical image in one request.
READ_BYTES = 256 * 1024


def is_prepared(builder: Any) -> bool:
  """Return True if the files of a data set exist."""
  path = epath.Path(builder.data_path)
  return (path / _INFO if paths.is_remote(path) else path).exists()


@contextlib.contextmanager
def preparation(builder: Any, local: Any) -> Iterator[Any]:
  """Yield a builder to prepare; its files are then in the bucket.

  Args:
    builder: TFDS builder of the data set.
    local: Returns the builder for a local data directory.
  """
  target = epath.Path(builder.data_path)
  if not paths.is_remote(target) or is_prepared(builder):
    yield builder
    return
  with tempfile.TemporaryDirectory() as directory:
    staged = local(directory)
    yield staged
    files = list(epath.Path(staged.data_path).iterdir())
    for file in sorted(files, key=lambda file: file.name == _INFO):
      file.copy(target / file.name, overwrite=True)


@contextlib.contextmanager
def local_copy(builder: Any, split: str) -> Iterator[Any]:
  """Yield a builder that reads one split of a prepared data set locally."""
  source = epath.Path(builder.data_path)
  if not paths.is_remote(source):
    yield builder
    return
  import tensorflow_datasets as tfds

  others = {
    epath.Path(path).name
    for name, info in builder.info.splits.items()
    for path in info.filepaths
    if name != split
  }
  with tempfile.TemporaryDirectory() as directory:
    for file in source.iterdir():
      if file.name not in others:
        file.copy(epath.Path(directory) / file.name)
    # Old versions of TFDS wrote no features.json.
    builder.info.features.save_config(directory)
    yield tfds.builder_from_directory(directory)


def local_files(files: Sequence[epath.Path]) -> Iterator[Sequence[epath.Path]]:
  """Yield files that TensorFlow can read: all, or one local copy at a time."""
  if not paths.is_remote(files[0]):
    yield files
    return
  for file in files:
    with tempfile.TemporaryDirectory() as directory:
      yield [file.copy(epath.Path(directory) / file.name)]


def read_record(path: Any, offset: Any) -> bytes:
  """Read one record of a TFRecord file in a bucket.

  Args:
    path: A gs:// path as `tf.numpy_function` passes it: bytes [].
    offset: First byte of the record, int64 [].

  Raises:
    ValueError: The record is damaged.
    RuntimeError: The bucket can't be read; one line says why.
  """
  import google_crc32c

  name = np.asarray(path).item().decode()
  offset = int(offset)
  data = _read(name, offset, offset + READ_BYTES)
  start = BYTES_BEFORE
  stop = start + int.from_bytes(data[:8], "little")
  end = stop + BYTES_AFTER
  if len(data) == READ_BYTES < end:  # otherwise the file ends
    data += _read(name, offset + READ_BYTES, offset + end)
  checksum = int.from_bytes(data[stop : stop + BYTES_AFTER], "little")
  crc = google_crc32c.value(data[start:stop])
  # TFRecord files hold checksums rotated, and with a constant added.
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  if checksum != masked:
    raise ValueError(f"corrupted record at {offset}")
  return data[start:stop]


def read_file(name: str) -> bytes:
  """Read a whole file in a bucket.

  Raises:
    RuntimeError: The bucket can't be read; one line says why.
  """
  return _read(name, 0, None)


@functools.cache
def _client() -> Any:
  return buckets.reader()


def _read(name: str, start: int, stop: int | None) -> bytes:
  """Read bytes of a file in a bucket, fewer at its end; None: to its end.

  This is Google's own client, which works in the thread that calls it. That of
  fsspec has one thread for all files. If Python's garbage collector ended an
  abandoned pipeline in that thread, the pipeline would wait there forever for
  the reads that it has asked for.
  """
  bucket, _, file = name.removeprefix("gs://").partition("/")
  try:
    blob = _client().bucket(bucket).blob(file)
    return blob.download_as_bytes(
      start=start,
      end=stop and stop - 1,
      raw_download=True,
      checksum=None,
    )
  except Exception as error:  # each client has errors of its own
    raise RuntimeError(buckets.describe(error, name)) from error
