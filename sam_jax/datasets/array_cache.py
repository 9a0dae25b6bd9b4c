"""Directories of plain arrays: whole, checked, and mapped into memory."""

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
  """Maps the arrays that `write_arrays` wrote.

  Returns:
    Arrays by name, or None if there are none or, with a warning, if they are
    damaged.
  """
  if not (directory / "checksums.json").exists():
    return None
  try:
    checksums = json.loads((directory / "checksums.json").read_text())
    arrays = {
      name: np.load(
        directory / f"{name}.npy", mmap_mode="r", allow_pickle=False
      )
      for name in checksums
    }
    is_whole = all(zlib.crc32(arrays[n]) == checksums[n] for n in checksums)
  except (OSError, ValueError, AttributeError, TypeError):
    is_whole = False
  if is_whole:
    return arrays
  logger.warning("The arrays in %s are damaged: made anew.", directory)
  return None


def write_arrays(directory: epath.Path, arrays: Arrays) -> None:
  """Writes arrays so that a reader finds all of them or none.

  A directory that can't be written to, or not be mapped into memory, is left
  alone: then the arrays are made again every time.
  """
  if "://" in os.fspath(directory):
    return
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = epath.Path(tempfile.mkdtemp(dir=directory.parent))
  except OSError as error:
    logger.warning("Can't cache arrays in %s: %s", directory, error)
    return
  try:
    _write_draft(draft, arrays)
    if directory.exists():
      shutil.rmtree(directory)
    os.rename(draft, directory)
  except OSError as error:
    shutil.rmtree(draft, ignore_errors=True)
    if not (directory / "checksums.json").exists():
      logger.warning("Can't cache arrays in %s: %s", directory, error)
    # Otherwise another process was faster: its arrays are the same.


def _write_draft(draft: epath.Path, arrays: Arrays) -> None:
  # A temporary directory is its owner's alone; data are for all who may read
  # the directory around it.
  os.chmod(draft, os.stat(draft.parent).st_mode & 0o777)
  for name, array in arrays.items():
    np.save(draft / f"{name}.npy", array, allow_pickle=False)
  checksums = {n: zlib.crc32(np.ascontiguousarray(arrays[n])) for n in arrays}
  (draft / "checksums.json").write_text(json.dumps(checksums))
