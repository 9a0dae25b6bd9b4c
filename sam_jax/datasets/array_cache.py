"""Directories of plain arrays: whole, checked, and tied to where they are from.

Those on a local disk are mapped into memory, those at gs:// are read.
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from etils import epath

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def data_root(data_dir: str | None) -> epath.Path:
  """TFDS's data directory, found as TFDS finds it, without TFDS.

  Args:
    data_dir: As given to TFDS; None for its default.
  """
  default = os.path.join("~", "tensorflow_datasets")
  path = data_dir or os.environ.get("TFDS_DATA_DIR") or default
  return epath.Path(path).expanduser()


def cache_dir(data_dir: str | None, *names: str) -> epath.Path:
  """A directory of ours in TFDS's data directory.

  Args:
    data_dir: See `data_root`.
    *names: The parts of the path below it.
  """
  return data_root(data_dir).joinpath("sam_jax_cache", *names)


def read_arrays(directory: epath.Path, source: Any = None) -> Arrays | None:
  """Reads the arrays that `write_arrays` wrote.

  Args:
    directory: Where they are.
    source: What they are made from, such as names and sizes of files: a value
      that JSON keeps as it is.

  Returns:
    Arrays by name, or None if there are none, if they were made from another
    source or, with a warning, if they are damaged.
  """
  if not (directory / "checksums.json").exists():
    return None
  try:
    content = json.loads((directory / "checksums.json").read_text())
    if content["source"] != source:
      logger.info("The data of %s have changed: made anew.", directory)
      return None
    checksums = content["arrays"]
    arrays = {name: _read(directory / f"{name}.npy") for name in checksums}
    is_whole = all(zlib.crc32(arrays[n]) == checksums[n] for n in checksums)
  except (OSError, EOFError, ValueError, LookupError, TypeError):
    is_whole = False
  if is_whole and arrays:
    return arrays
  logger.warning("The arrays in %s are damaged: made anew.", directory)
  return None


def write_arrays(
  directory: epath.Path, arrays: Arrays, source: Any = None
) -> None:
  """Writes arrays so that a reader finds all of them or none.

  A directory that can't be written to is left alone, with a warning: then the
  arrays are made again every time.

  Args:
    directory: Where to.
    arrays: Arrays by name, at least one.
    source: See `read_arrays`.
  """
  try:
    if _is_remote(directory):
      directory.mkdir(parents=True, exist_ok=True)
      _write_files(directory, arrays, source)
    else:
      _replace(directory, arrays, source)
  except Exception as error:  # gs:// has errors of its own
    logger.warning("Can't cache arrays in %s: %s", directory, error)


def _is_remote(path: epath.Path) -> bool:
  return "://" in os.fspath(path)


def _read(path: epath.Path) -> np.ndarray:
  if not _is_remote(path):
    return np.load(path, mmap_mode="r", allow_pickle=False)
  with path.open("rb") as file:
    return np.load(file, allow_pickle=False)


def _replace(directory: epath.Path, arrays: Arrays, source: Any) -> None:
  """Writes another directory and renames it: readers keep what they mapped."""
  directory.parent.mkdir(parents=True, exist_ok=True)
  draft = epath.Path(tempfile.mkdtemp(dir=directory.parent))
  try:
    # A temporary directory is its owner's alone; data are for all who may read
    # the directory around it.
    os.chmod(draft, os.stat(draft.parent).st_mode & 0o777)
    _write_files(draft, arrays, source)
    if directory.exists():
      shutil.rmtree(directory)
    os.rename(draft, directory)
  except OSError:
    shutil.rmtree(draft, ignore_errors=True)
    # If they are there, another process was faster: its arrays are the same.
    if not (directory / "checksums.json").exists():
      raise


def _write_files(directory: epath.Path, arrays: Arrays, source: Any) -> None:
  for name, array in arrays.items():
    with _written(directory / f"{name}.npy") as file:
      np.save(file, array, allow_pickle=False)
  checksums = {n: zlib.crc32(np.ascontiguousarray(arrays[n])) for n in arrays}
  content = json.dumps({"arrays": checksums, "source": source})
  # Last: they make the arrays valid.
  with _written(directory / "checksums.json") as file:
    file.write(content.encode())


@contextlib.contextmanager
def _written(path: epath.Path) -> Iterator[BinaryIO]:
  """Opens a file to write: a crash leaves no name without its content."""
  with path.open("wb") as file:
    yield file
    if not _is_remote(path):
      file.flush()
      os.fsync(file.fileno())
