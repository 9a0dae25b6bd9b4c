"""Directories of plain arrays: whole and checked.

Those on a local disk are mapped into memory, those at gs:// are read.
"""

import json
import logging
import os
import shutil
import tempfile
import zlib

import numpy as np
from etils import epath

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def cache_dir(data_dir: str | None, *names: str) -> epath.Path:
  """A directory beside TFDS's data, found as TFDS finds it, without TFDS.

  Args:
    data_dir: TFDS's data directory; None for its default.
    *names: The parts of the path below it.
  """
  default = os.path.join("~", "tensorflow_datasets")
  path = data_dir or os.environ.get("TFDS_DATA_DIR") or default
  return epath.Path(path).expanduser().joinpath("sam_jax_cache", *names)


def read_arrays(directory: epath.Path) -> Arrays | None:
  """Reads the arrays that `write_arrays` wrote.

  Returns:
    Arrays by name, or None if there are none or, with a warning, if they are
    damaged.
  """
  if not (directory / "checksums.json").exists():
    return None
  try:
    checksums = json.loads((directory / "checksums.json").read_text())
    arrays = {name: _read(directory / f"{name}.npy") for name in checksums}
    is_whole = all(zlib.crc32(arrays[n]) == checksums[n] for n in checksums)
  except (OSError, ValueError, AttributeError, TypeError):
    is_whole = False
  if is_whole:
    return arrays
  logger.warning("The arrays in %s are damaged: made anew.", directory)
  return None


def write_arrays(directory: epath.Path, arrays: Arrays) -> None:
  """Writes arrays so that a reader finds all of them or none.

  A directory that can't be written to is left alone, with a warning: then the
  arrays are made again every time.
  """
  try:
    if _is_remote(directory):
      directory.mkdir(parents=True, exist_ok=True)
      _write_files(directory, arrays)
    else:
      _replace(directory, arrays)
  except Exception as error:  # gs:// has errors of its own
    logger.warning("Can't cache arrays in %s: %s", directory, error)


def _is_remote(path: epath.Path) -> bool:
  return "://" in os.fspath(path)


def _read(path: epath.Path) -> np.ndarray:
  if not _is_remote(path):
    return np.load(path, mmap_mode="r", allow_pickle=False)
  with path.open("rb") as file:
    return np.load(file, allow_pickle=False)


def _replace(directory: epath.Path, arrays: Arrays) -> None:
  """Writes another directory and renames it: readers keep what they mapped."""
  directory.parent.mkdir(parents=True, exist_ok=True)
  draft = epath.Path(tempfile.mkdtemp(dir=directory.parent))
  try:
    # A temporary directory is its owner's alone; data are for all who may read
    # the directory around it.
    os.chmod(draft, os.stat(draft.parent).st_mode & 0o777)
    _write_files(draft, arrays)
    if directory.exists():
      shutil.rmtree(directory)
    os.rename(draft, directory)
  except OSError:
    shutil.rmtree(draft, ignore_errors=True)
    # If they are there, another process was faster: its arrays are the same.
    if not (directory / "checksums.json").exists():
      raise


def _write_files(directory: epath.Path, arrays: Arrays) -> None:
  for name, array in arrays.items():
    with (directory / f"{name}.npy").open("wb") as file:
      np.save(file, array, allow_pickle=False)
  checksums = {n: zlib.crc32(np.ascontiguousarray(arrays[n])) for n in arrays}
  # Last: they make the arrays valid.
  (directory / "checksums.json").write_text(json.dumps(checksums))
