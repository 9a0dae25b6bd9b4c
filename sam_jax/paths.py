"""Paths that users give: local directories, and gs:// through gcsfs.

Every path of a flag or of a config field becomes an `epath.Path` here. TFDS and
Orbax use etils, too, so all of them access a bucket in the same way.
"""

import importlib.util
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Self

from etils import epath
from etils.epath import gpath

from sam_jax.config.field_type import ConfigError

# etils would prefer the file system of TensorFlow, where that is installed. It
# reads this at the first access to a path.
os.environ["EPATH_USE_TF"] = "false"


def is_remote(path: epath.PathLike) -> bool:
  """Return True if a path is in a bucket, such as gs://bucket/run."""
  return "://" in os.fspath(path)


def resolve(path: epath.PathLike) -> epath.Path:
  """Return a path with `~` expanded and, if it is local, absolute.

  Args:
    path: Local or gs:// path.

  Raises:
    ConfigError: It is remote and not at gs://, or the packages for buckets are
      not installed.
  """
  if not is_remote(path):
    return _LocalPath(epath.Path(path).expanduser().absolute())
  scheme = os.fspath(path).partition("://")[0]
  if scheme != "gs":
    raise ConfigError(
      f"{os.fspath(path)}: {scheme}:// is not supported; use a local path or"
      " gs://."
    )
  if not _has_bucket_packages():
    raise ConfigError(
      f"{os.fspath(path)} needs more packages: pip install 'sam-jax[gcs]'."
    )
  _configure_gcsfs()
  return epath.Path(path)


def make_directory(path: epath.Path) -> None:
  """Create a directory in which files can be created, if it is missing.

  Raises:
    OSError: It can't be one; clients for gs:// raise errors of their own.
  """
  path.mkdir(parents=True, exist_ok=True)
  if not is_remote(path):
    # os.access would let root write everywhere.
    tempfile.TemporaryFile(dir=path).close()


def describe_error(error: Exception) -> str:
  """Return the cause of a failed access to a path in one line.

  Args:
    error: An OSError, or an error of a client for gs://.
  """
  reason = getattr(error, "strerror", None) or str(error)
  return " ".join(reason.split()) or type(error).__name__


class _LocalPath(gpath.PosixGPath):
  """A path whose own characters are no pattern.

  etils matches the whole path in `glob`: it would not find a file below a
  directory such as "keep=[1, 2]". Orbax and TFDS find their files by `glob`.
  """

  def glob(self, pattern: str) -> Iterator[Self]:
    """Yield the files below this path that match a pattern."""
    return map(type(self), pathlib.Path(self).glob(pattern))


def _has_bucket_packages() -> bool:
  """Return True if the extra [gcs] is installed; Orbax needs the second."""
  try:
    return all(
      importlib.util.find_spec(name)
      for name in ("gcsfs", "google.cloud.storage")
    )
  except ModuleNotFoundError:  # of a parent package
    return False


def _configure_gcsfs() -> None:
  """Let gcsfs see the files that other processes write.

  By default it keeps a listing for the life of the process.
  """
  # They log what they raise, with tracebacks, what they try, and every opening.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  logging.getLogger("fsspec").setLevel(logging.WARNING)
  logging.getLogger("google.auth").setLevel(logging.ERROR)
  # Its client for zonal buckets connects to an API of their own at every start.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  import fsspec.config

  fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
