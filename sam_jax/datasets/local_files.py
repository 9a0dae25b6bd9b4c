"""Files of small data sets that users already have, in place of downloads.

TFDS takes an archive from --manual_dir if it is that of its address, byte by
byte. This module finds the same content in other forms.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from sam_jax.datasets import cifar_python, idx_files

# Where packages of Debian install data sets.
INSTALLED = {
  "fashion_mnist": pathlib.Path("/usr/share/datasets/fashion-mnist"),
}
_PACKAGES = {"fashion_mnist": "dataset-fashion-mnist"}


def remedies(name: str) -> str:
  """Return how to prepare a data set without a network, as parts of a list."""
  files = ""
  if name in idx_files.SHA256:
    files = f"{', '.join(idx_files.FILES)} (or .gz)"
  elif name in cifar_python.LAYOUTS:
    layout = cifar_python.LAYOUTS[name]
    files = f"{layout.binary_archive} or {layout.archive}"
  elif name == "svhn":
    files = "train_32x32.mat, test_32x32.mat, extra_32x32.mat"
  parts = f" put {files} into --manual_dir," if files else ""
  if name in _PACKAGES:
    parts += f" install Debian's package {_PACKAGES[name]},"
  return parts


@contextlib.contextmanager
def found(
  name: str, manual_dir: str | None, default: pathlib.Path
) -> Iterator[dict[str, pathlib.Path]]:
  """Yield what a TFDS builder would have downloaded and extracted.

  Args:
    name: Name of the data set.
    manual_dir: Directory that the user names, or None. Data sets whose files
      have the same names may have directories in it, of their names.
    default: Directory to search if `manual_dir` is None, in addition to that
      of an installed package.

  Yields:
    For the last part of each URL, a file or directory that exists within the
    context; {} if there are none.

  Raises:
    DatasetError: A file is missing, damaged, or belongs to another data set.
  """
  with tempfile.TemporaryDirectory(prefix="sam_jax_files_") as staging:
    yield _extract(
      name, _directories(name, manual_dir, default), pathlib.Path(staging)
    )


def _directories(
  name: str, manual_dir: str | None, default: pathlib.Path
) -> list[pathlib.Path]:
  """Return the directories to search, the first one first."""
  manual = pathlib.Path(manual_dir).expanduser() if manual_dir else default
  directories = [manual / name, manual]
  if manual_dir is None and name in INSTALLED:
    directories.append(INSTALLED[name])
  return directories


def _extract(
  name: str, directories: list[pathlib.Path], staging: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Extract the files of a data set from the first directory that has any."""
  if name in idx_files.SHA256:
    extract = idx_files.decompress
  elif name in cifar_python.LAYOUTS:
    extract = cifar_python.convert
  else:
    return {}
  for directory in directories:
    files = extract(name, directory, staging)
    if files:
      return files
  return {}


def use(builder: Any, files: dict[str, pathlib.Path]) -> None:
  """Let a TFDS builder read these files in place of its downloads."""
  split_generators = builder._split_generators
  builder._split_generators = lambda manager: split_generators(
    _FoundFiles(manager, files)
  )


class _FoundFiles:
  """A download manager that returns files instead of downloading them."""

  def __init__(self, manager: Any, files: dict[str, pathlib.Path]):
    self._manager = manager
    self._files = files

  def download_and_extract(self, urls: Any) -> Any:
    """Return the file of a URL, or those of a dict of URLs."""
    if isinstance(urls, dict):
      return {key: self.download_and_extract(urls[key]) for key in urls}
    return self._files[urls.rpartition("/")[2]]

  def __getattr__(self, name: str) -> Any:
    return getattr(self._manager, name)
