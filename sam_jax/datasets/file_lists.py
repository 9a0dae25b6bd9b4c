"""Lists of image files: below a directory, local or in a bucket."""

import collections
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import numpy as np
from etils import epath

from sam_jax import buckets, paths, wording
from sam_jax.datasets.catalog import DatasetError

logger = logging.getLogger(__name__)

# Pillow decodes them, and one file holds one image.
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Files:
  """Files, sorted by name, with what tells whether they have changed.

  Attributes:
    root: Directory of all names.
    names: Names below it, with "/" between directories.
    sizes: int64 [N], in bytes; -1 for a file that is missing.
    versions: int64 [N], the time of the last change or, in a bucket, the number
      of the object's generation.
  """

  root: epath.Path
  names: Sequence[str]
  sizes: np.ndarray
  versions: np.ndarray

  def __len__(self) -> int:
    return len(self.names)

  @property
  def paths(self) -> list[str]:
    """Whole paths of the files."""
    prefix = os.fspath(self.root)
    if paths.is_remote(self.root):
      return [f"{prefix.rstrip('/')}/{name}" for name in self.names]
    return [os.path.join(prefix, name) for name in self.names]

  def with_others(self, others: "Files") -> "Files":
    """Return these files and, after them, others below the same root."""
    return Files(
      self.root,
      [*self.names, *others.names],
      np.concatenate([self.sizes, others.sizes]),
      np.concatenate([self.versions, others.versions]),
    )

  def take(self, where: np.ndarray) -> "Files":
    """Return some of the files, by numbers int [n] or a mask bool [N]."""
    numbers = np.arange(len(self))[where]
    names = [self.names[i] for i in numbers]
    return Files(self.root, names, self.sizes[where], self.versions[where])


def error(place: epath.PathLike, problem: str) -> DatasetError:
  """Return the error that an image folder has a problem."""
  return DatasetError(f"Image folder {place}: {problem}")


def directories(path: epath.Path) -> list[str]:
  """Return the names of the directories in a directory, sorted.

  Those that begin with a dot are hidden.
  """
  try:
    found = [child.name for child in path.iterdir() if child.is_dir()]
  except OSError as problem:
    raise unreadable(path, problem) from problem
  return sorted(name for name in found if not name.startswith("."))


def unreadable(path: epath.PathLike, problem: OSError) -> DatasetError:
  """Return the error that a file or a directory can't be read."""
  return error(path, f"it can't be read: {paths.describe_error(problem)}.")


def find(root: epath.Path, prefixes: Sequence[str]) -> Files:
  """Find the images below some directories, at any depth.

  Files with other extensions are counted in the log, and so are names that two
  images share except for their extensions. Hidden files are left out.

  Args:
    root: Directory of all names.
    prefixes: Directories below it, such as "train/cat/", sorted; "" for the
      directory itself.
  """
  found = _walk_bucket if paths.is_remote(root) else _walk
  rows = [row for prefix in prefixes for row in sorted(found(root, prefix))]
  kept = [row for row in rows if _extension(row[0]) in EXTENSIONS]
  _report_others(root, [row[0] for row in rows])
  _report_doubles(root, [row[0] for row in kept])
  return _files(root, kept)


def stat(root: epath.Path, names: Iterable[str]) -> Files:
  """Look up files by name; the size of those that are missing is -1."""
  rows = []
  for name in names:
    path = root / name
    try:
      if paths.is_remote(path):
        rows.append((name, path.stat().length, 0))
      else:
        found = os.stat(path)
        rows.append((name, found.st_size, found.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
      rows.append((name, -1, 0))
  return _files(root, rows)


def _files(root: epath.Path, rows: Sequence[tuple[str, int, int]]) -> Files:
  numbers = np.array([row[1:] for row in rows], np.int64).reshape(-1, 2)
  return Files(root, [row[0] for row in rows], numbers[:, 0], numbers[:, 1])


def _walk(root: epath.Path, prefix: str) -> Iterator[tuple[str, int, int]]:
  """Yield (name, size, version) of the files below a local directory."""
  top = os.fspath(root)
  seen = set()  # links may form circles

  def refuse(problem: OSError) -> NoReturn:
    raise unreadable(problem.filename, problem) from problem

  start = os.path.join(top, prefix)
  for directory, below, files in os.walk(
    start, onerror=refuse, followlinks=True
  ):
    if (real := os.path.realpath(directory)) in seen:
      below.clear()
      continue
    seen.add(real)
    below[:] = sorted(name for name in below if not name.startswith("."))
    for name in files:
      path = os.path.join(directory, name)
      if not name.startswith(".") and os.path.isfile(path):
        found = os.stat(path)
        relative = os.path.relpath(path, top).replace(os.sep, "/")
        yield relative, found.st_size, found.st_mtime_ns


def _walk_bucket(
  root: epath.Path, prefix: str
) -> Iterator[tuple[str, int, int]]:
  """Yield (name, size, version) of the objects below a path at gs://."""
  bucket, _, top = os.fspath(root).removeprefix("gs://").partition("/")
  top = f"{top.rstrip('/')}/" if top else ""
  for blob in buckets.reader().list_blobs(bucket, prefix=top + prefix):
    name = blob.name.removeprefix(top)
    if not any(part.startswith(".") for part in name.split("/")):
      yield name, blob.size, blob.generation or 0


def _extension(name: str) -> str:
  return os.path.splitext(name)[1].lower()


def _report_others(root: epath.Path, names: Sequence[str]) -> None:
  """Log how many files are no images by their extension."""
  counted = collections.Counter(map(_extension, names))
  others = {e: n for e, n in sorted(counted.items()) if e not in EXTENSIONS}
  if others:
    counts = ", ".join(f"{e or 'none'} ({n})" for e, n in others.items())
    logger.warning(
      "Image folder %s: left out %s with extensions other than %s: %s.",
      root,
      wording.count(sum(others.values()), "file"),
      ", ".join(EXTENSIONS),
      counts,
    )


def _report_doubles(root: epath.Path, names: Sequence[str]) -> None:
  """Log images that differ in their extensions alone, maybe one picture."""
  by_stem = collections.defaultdict(list)
  for name in names:
    by_stem[os.path.splitext(name)[0]].append(name)
  doubles = [same for same in by_stem.values() if len(same) > 1]
  if doubles:
    logger.warning(
      "Image folder %s: %s with several extensions, all of them used: %s.",
      root,
      wording.count(len(doubles), "name"),
      "; ".join(" and ".join(same) for same in doubles[:_NAMED]),
    )
