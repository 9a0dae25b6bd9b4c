"""IDX files, the format of MNIST and of data sets that replace it."""

import gzip
import hashlib
import logging
import pathlib
import zlib

import numpy as np

from sam_jax.datasets.catalog import DatasetError

logger = logging.getLogger(__name__)

_TRAIN_IMAGES = "train-images-idx3-ubyte"
_TRAIN_LABELS = "train-labels-idx1-ubyte"
_TEST_IMAGES = "t10k-images-idx3-ubyte"
_TEST_LABELS = "t10k-labels-idx1-ubyte"
FILES = (_TRAIN_IMAGES, _TRAIN_LABELS, _TEST_IMAGES, _TEST_LABELS)

# SHA-256 of the decompressed files. Those of Fashion-MNIST are proven: with the
# name and the time of the original in its header, each archive of Debian's
# package has the SHA-256 that TFDS knows. Those of MNIST are in many
# repositories. Of KMNIST only the archives' are known.
SHA256 = {
  "mnist": {
    _TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738"
    "ad16aec93bde7f9b65e87a2fc25776db",
    _TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5"
    "333a97f0f4c3dd2ef09a8a9eef7101c5",
    _TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77"
    "db3f2f8254e26661ceb7762c4d494ce7",
    _TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351"
    "222c34898ecbeaf847f06e48f7ec33f2",
  },
  "fashion_mnist": {
    _TRAIN_IMAGES: "c59f468a2f672dc815687fe0f8388776"
    "8d799fd8a3f3276145d20f83aa44d888",
    _TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec29"
    "4ff4f6a2e1246121d8633921760443d9",
    _TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe0"
    "87ea10ca49f1dbef5c9a5cd8815ce37b",
    _TEST_LABELS: "0402a96d92fd2663957122ceb108a494"
    "c5af83dab82d92729df917d7dec38c34",
  },
  "kmnist": {},
}
COUNTS = {"train": 60_000, "t10k": 10_000}
_SIDE = 28  # pixels
_NUM_CLASSES = 10
_MAGIC_IMAGES, _MAGIC_LABELS = 2051, 2049


def decompress(
  name: str, directory: pathlib.Path, target: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Copy the IDX files of a data set, decompressed and checked.

  Args:
    name: A data set of `SHA256`.
    directory: Directory of the files, compressed by gzip or not.
    target: Directory of the copies.

  Returns:
    The copies, by the names of the compressed files; {} if `directory` has none
    of the files.

  Raises:
    DatasetError: A file is missing, damaged, or belongs to another data set.
  """
  sources = {file: _find(directory, file) for file in FILES}
  missing = [file for file, source in sources.items() if source is None]
  if len(missing) == len(FILES):
    return {}
  if missing:
    raise DatasetError(
      f"Data set {name!r}: {directory} lacks {', '.join(missing)}, compressed"
      " (.gz) or not. Add what is missing, or name another directory with"
      " --manual_dir."
    )
  for file, source in sources.items():
    assert source is not None
    content = _read(source)
    _check(name, file, content, source)
    (target / file).write_bytes(content)
  if not SHA256[name]:
    logger.warning(
      "%s: the checksums of its decompressed files are not known; sizes, shapes"
      " and labels were checked.",
      name,
    )
  return {f"{file}.gz": target / file for file in FILES}


def _find(directory: pathlib.Path, file: str) -> pathlib.Path | None:
  """Return the path of a file, compressed or not, if there is one."""
  for name in (f"{file}.gz", file):
    if (directory / name).is_file():
      return directory / name
  return None


def _read(path: pathlib.Path) -> bytes:
  """Return the content of a file, decompressed."""
  try:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content
  except (EOFError, zlib.error, OSError) as error:  # BadGzipFile is an OSError
    reason = getattr(error, "strerror", None) or error
    raise DatasetError(
      f"{path} can't be read: {reason}. Copy the file again."
    ) from error


def _check(name: str, file: str, content: bytes, source: pathlib.Path) -> None:
  """Compare the content of a file with that of the published one.

  Raises:
    DatasetError: They differ.
  """
  known = SHA256[name].get(file)
  found = hashlib.sha256(content).hexdigest()
  # Data sets that replace MNIST have the names of its files, too.
  owners = [other for other in SHA256 if SHA256[other].get(file) == found]
  if owners not in ([], [name]):
    problem = f"is that of {owners[0]}"
  elif known is None:
    problem = _wrong_format(file, content)
  else:
    problem = "" if found == known else f"has the SHA-256 {found}, not {known}"
  if problem:
    raise DatasetError(
      f"Data set {name!r}: the content of {source} {problem}. Copy the"
      " published file, or name another directory with --manual_dir."
    )


def _wrong_format(file: str, content: bytes) -> str:
  """Return how a file differs from the format of MNIST's; "" if it does not."""
  count = COUNTS[file.partition("-")[0]]
  is_images = "images" in file
  header = [_MAGIC_LABELS, count]
  if is_images:
    header = [_MAGIC_IMAGES, count, _SIDE, _SIDE]
  size = 4 * len(header) + count * (_SIDE**2 if is_images else 1)
  if len(content) != size:
    return f"has {len(content):,} bytes, not {size:,}"
  found = np.frombuffer(content, ">i4", len(header)).tolist()
  if found != header:
    return f"begins with {found}, not {header}"
  if not is_images:
    largest = int(np.frombuffer(content, np.uint8, offset=8).max())
    if largest >= _NUM_CLASSES:
      return f"has the label {largest}, with {_NUM_CLASSES} classes"
  return ""
