"""The Python version of CIFAR, rewritten as the binary version.

Its files are pickles of Python 2. Their texts and numbers are read one by one:
no object is made from them, and no code in them runs.
"""

import dataclasses
import hashlib
import pathlib
import pickletools
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sam_jax.datasets.catalog import DatasetError

_TEXTS = ("SHORT_BINSTRING", "BINSTRING")
_NUMBERS = ("BININT1", "BININT2", "BININT")
_BYTES = 3072  # of an image


@dataclasses.dataclass(frozen=True)
class Layout:
  """Describes the files of both versions.

  Attributes:
    archive: Archive of the Python version.
    directory: Directory in it.
    md5: For each file of the Python version its MD5, as in torchvision.
    binary_archive: Archive of the binary version.
    binary_directory: Directory in it.
    batches: For each file of the binary version its Python file.
    label_keys: Names of the labels in a batch, in the order of a binary row.
    name_keys: For each list of class names of the binary version, its key in
      the Python version.
    names: Python file of the class names.
  """

  archive: str
  directory: str
  md5: Mapping[str, str]
  binary_archive: str
  binary_directory: str
  batches: Mapping[str, str]
  label_keys: tuple[str, ...]
  name_keys: Mapping[str, str]
  names: str


_CIFAR10 = Layout(
  archive="cifar-10-python.tar.gz",
  directory="cifar-10-batches-py",
  md5={
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
  },
  binary_archive="cifar-10-binary.tar.gz",
  binary_directory="cifar-10-batches-bin",
  batches={
    **{f"data_batch_{i}.bin": f"data_batch_{i}" for i in range(1, 6)},
    "test_batch.bin": "test_batch",
  },
  label_keys=("labels",),
  name_keys={"batches.meta.txt": "label_names"},
  names="batches.meta",
)
_CIFAR100 = Layout(
  archive="cifar-100-python.tar.gz",
  directory="cifar-100-python",
  md5={
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
  },
  binary_archive="cifar-100-binary.tar.gz",
  binary_directory="cifar-100-binary",
  batches={"train.bin": "train", "test.bin": "test"},
  label_keys=("coarse_labels", "fine_labels"),
  name_keys={
    "coarse_label_names.txt": "coarse_label_names",
    "fine_label_names.txt": "fine_label_names",
  },
  names="meta",
)
LAYOUTS = {
  "cifar10": _CIFAR10,
  "cifar10_n": _CIFAR10,
  "cifar100": _CIFAR100,
  "cifar100_n": _CIFAR100,
}


def convert(
  name: str, directory: pathlib.Path, target: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Write the binary version of CIFAR from the Python version.

  Args:
    name: A data set of `LAYOUTS`.
    directory: Directory of the Python version: its archive, or the directory
      that is in it.
    target: Directory to write to.

  Returns:
    `target`, by the name of the binary archive; {} if `directory` has no Python
    version, or has the binary archive, too.

  Raises:
    DatasetError: A file is missing, damaged, or not the published one.
  """
  layout = LAYOUTS[name]
  source = directory / layout.directory
  if not source.is_dir():
    source = directory / layout.archive
  if (directory / layout.binary_archive).exists() or not source.exists():
    return {}
  contents = _read(name, layout, source)
  output = target / layout.binary_directory
  output.mkdir()
  try:
    for file, batch in layout.batches.items():
      lists, array = _parse(contents[batch])
      rows = _binary_rows(lists, array, layout.label_keys)
      (output / file).write_bytes(rows)
    lists, _ = _parse(contents[layout.names])
    for file, key in layout.name_keys.items():
      (output / file).write_text("".join(f"{text}\n" for text in lists[key]))
  except (ValueError, KeyError) as error:
    raise DatasetError(
      f"Data set {name!r}: {source} can't be read without running the code in"
      f" its pickles ({error}). Put {layout.binary_archive} into {directory}."
    ) from error
  return {layout.binary_archive: target}


def _read(name: str, layout: Layout, source: pathlib.Path) -> dict[str, bytes]:
  """Return the contents of all files, compared with their checksums.

  Raises:
    DatasetError: A file is missing, damaged, or not the published one.
  """
  try:
    if source.is_dir():
      contents = {file: (source / file).read_bytes() for file in layout.md5}
    else:
      with tarfile.open(source) as tar:
        contents = {
          file: _member(tar, f"{layout.directory}/{file}")
          for file in layout.md5
        }
  except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
    reason = " ".join(str(error).split())
    raise DatasetError(
      f"Data set {name!r}: {source} can't be read: {reason}. Copy it again."
    ) from error
  for file, md5 in layout.md5.items():
    found = hashlib.md5(contents[file]).hexdigest()
    if found != md5:
      raise DatasetError(
        f"Data set {name!r}: {file} of {source} has the MD5 {found}, not {md5}."
        " Copy the published file."
      )
  return contents


def _member(tar: tarfile.TarFile, name: str) -> bytes:
  file = tar.extractfile(name)
  if file is None:
    raise KeyError(f"{name} is no file")
  return file.read()


def _parse(content: bytes) -> tuple[dict[str, list[Any]], bytes]:
  """Return the lists of a pickled dict by key, and the bytes of its array.

  Args:
    content: A pickle of Python 2, protocol 2. Its dict has lists of texts or
      numbers, and at most one array in C order.

  Raises:
    ValueError: It is no pickle.
  """
  lists: dict[str, list[Any]] = {}
  items: list[Any] = []
  key = text = previous = ""
  array = b""
  for operation, argument, _ in pickletools.genops(content):
    if operation.name == "EMPTY_LIST":
      key = text
      lists[key] = []
    elif operation.name == "MARK":
      items = []
    elif operation.name == "APPENDS":
      lists[key] += items
    elif operation.name in _NUMBERS:
      items.append(argument)
    elif operation.name in _TEXTS:
      text = str(argument)
      items.append(text)
      if previous == "NEWFALSE":  # not in Fortran order
        array = text.encode("latin-1")
    previous = operation.name
  return lists, array


def _binary_rows(
  lists: dict[str, list[Any]], array: bytes, label_keys: tuple[str, ...]
) -> bytes:
  """Return rows of a label or two and the pixels: red, green, blue.

  Raises:
    ValueError: There are no labels, or not as many as images.
  """
  labels = np.array([lists[key] for key in label_keys], np.uint8).T
  pixels = np.frombuffer(array, np.uint8).reshape(len(labels), _BYTES)
  return np.concatenate([labels, pixels], 1).tobytes()
