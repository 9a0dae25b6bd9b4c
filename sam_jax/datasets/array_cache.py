"""A cache of NumPy arrays on the disk, tied to the data they were made from.

Arrays on a local disk are mapped into memory; arrays at gs:// are read.
"""

import contextlib
import json
import logging
import os
import tempfile
import zlib
from typing import IO, Any

import numpy as np
from etils import epath

from sam_jax import paths

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def data_root(data_dir: str | None) -> epath.Path:
  """Return TFDS's data directory, without loading TFDS.

  Args:
    data_dir: The directory given to TFDS; None for its default.
  """
  default = os.path.join("~", "tensorflow_datasets")
  path = data_dir or os.environ.get("TFDS_DATA_DIR") or default
  return paths.resolve(path)


def cache_dir(data_dir: str | None, *names: str) -> epath.Path:
  """Return a directory of this cache, inside TFDS's data directory.

  Args:
    data_dir: See `data_root`.
    *names: The parts of the path below the cache.
  """
  return data_root(data_dir).joinpath("sam_jax_cache", *names)


def read_arrays(directory: epath.Path, source: Any = None) -> Arrays | None:
  """Read the arrays that `write_arrays` wrote.

  Args:
    directory: Directory of the arrays.
    source: A value of JSON that changes with the data that the arrays are made
      from, such as names and sizes of files.

  Returns:
    Arrays by name. None if there are no arrays, if they were made from another
    source or, with a warning, if they are damaged.
  """
  if not (directory / "checksums.json").exists():
    return None
  try:
    content = json.loads((directory / "checksums.json").read_text())
    if content["source"] != source:
      logger.info(
        "The data in %s have changed; decoding them again.", directory
      )
      return None
    checksums = content["arrays"]
    arrays = {name: read_array(directory / f"{name}.npy") for name in checksums}
    is_whole = all(_checksum(arrays[n]) == checksums[n] for n in checksums)
  except (OSError, EOFError, ValueError, LookupError, TypeError):
    is_whole = False
  if is_whole and arrays:
    return arrays
  logger.warning(
    "The arrays in %s are damaged; creating them again.", directory
  )
  return None


def write_arrays(
  directory: epath.Path, arrays: Arrays, source: Any = None
) -> None:
  """Write arrays so that a reader finds all of them or none.

  If the directory can't be written to, log a warning and continue: the arrays
  are then created again in every run.

  Args:
    directory: Directory of the arrays.
    arrays: Arrays by name, at least one.
    source: See `read_arrays`.
  """
  try:
    if paths.is_remote(directory):
      directory.mkdir(parents=True, exist_ok=True)
      _write_files(directory, arrays, source)
    else:
      _replace(directory, arrays, source)
  except Exception as error:  # gs:// has errors of its own
    logger.warning("Can't cache arrays in %s: %s", directory, error)


def read_array(path: epath.Path) -> np.ndarray:
  """Map a file of np.save into memory, or read it if it is at gs://."""
  if not paths.is_remote(path):
    return np.load(path, mmap_mode="r", allow_pickle=False)
  with path.open("rb") as file:
    return np.load(file, allow_pickle=False)


def _checksum(array: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(array).data)


def _replace(directory: epath.Path, arrays: Arrays, source: Any) -> None:
  """Write a new directory, then rename it.

  Readers find the old arrays, the new ones, or for a moment none; they keep
  what they mapped.
  """
  parent = directory.parent
  parent.mkdir(parents=True, exist_ok=True)
  try:
    with tempfile.TemporaryDirectory(
      dir=parent, ignore_cleanup_errors=True
    ) as scratch:
      draft = epath.Path(scratch) / "new"
      draft.mkdir()
      # Data are for all who may read the directory around them.
      os.chmod(draft, os.stat(parent).st_mode & 0o777)
      _write_files(draft, arrays, source)
      with contextlib.suppress(FileNotFoundError):
        os.rename(directory, os.path.join(scratch, "old"))
      os.rename(draft, directory)
  except OSError:
    # If it exists, another process was faster: its arrays are the same.
    if not (directory / "checksums.json").exists():
      raise


def _write_files(directory: epath.Path, arrays: Arrays, source: Any) -> None:
  for name, array in arrays.items():
    with (directory / f"{name}.npy").open("wb") as file:
      np.save(file, array, allow_pickle=False)
      _sync(directory, file)
  checksums = {name: _checksum(array) for name, array in arrays.items()}
  content = json.dumps({"arrays": checksums, "source": source})
  # Last: the checksums make the arrays valid.
  with (directory / "checksums.json").open("wb") as file:
    file.write(content.encode())
    _sync(directory, file)


def _sync(directory: epath.Path, file: IO[bytes]) -> None:
  """Flush a local file to disk, so that a crash can't leave it incomplete."""
  if not paths.is_remote(directory):
    file.flush()
    os.fsync(file.fileno())
