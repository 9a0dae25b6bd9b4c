"""The directory of a run: whose it is, and what came out."""

import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax.config.schema import ConfigError, flatten
from sam_jax.runs import files

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

logger = logging.getLogger(__name__)

# Fields that may differ when a run goes on: they don't change its result.
FREE_FIELDS = (
  "dataset.data_dir",
  "compilation_cache_dir",
  "profile",
  "analysis.every_epochs",
  "analysis.num_examples",
  "analysis.rho",
  "analysis.m",
  "analysis.lanczos_steps",
)


class WorkdirLostError(OSError):
  """A workdir can't be written to any more."""


@contextlib.contextmanager
def claim(workdir: epath.PathLike, config: ConfigDict) -> Iterator[epath.Path]:
  """Makes a directory the home of a run, or finds that it already is.

  As long as the context lasts no other process can claim it, unless it is a
  gs:// path, where nothing can be locked. A run that never began, such as one
  whose data was missing, leaves it to any other.

  Args:
    workdir: Local or gs:// path.
    config: The config of the run.

  Yields:
    The directory. It holds `config.json`.

  Raises:
    ConfigError: It can't be written, or is in use, or belongs to a run with
      another config; the message names the fields that differ.
    WorkdirLostError: The context found that it was removed, or that the disk
      is full.
  """
  path = epath.Path(workdir).expanduser()
  with contextlib.ExitStack() as stack:
    try:
      path.mkdir(parents=True, exist_ok=True)
      if jax.process_index() == 0:
        stack.enter_context(_lock(path))
      existing = read_config(path)
      if existing is not None and has_begun(path):
        _check_same(existing, to_dict(config), path)
      if jax.process_index() == 0:
        files.write_json(path / "config.json", to_dict(config))
    except ConfigError:
      raise
    except Exception as error:  # gs:// has errors of its own
      raise ConfigError(
        f"--workdir={workdir} can't be written:"
        f" {getattr(error, 'strerror', None) or error}. Choose another"
        " directory."
      ) from error
    try:
      yield path
    except OSError as error:
      lost = os.fspath(path) in str(error.filename)
      if not lost and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise
      raise WorkdirLostError(
        f"--workdir={workdir} can't be written any more: {error}. The same"
        " command goes on from the last checkpoint, or starts again."
      ) from error


@contextlib.contextmanager
def _lock(path: epath.Path) -> Iterator[None]:
  """Keeps other processes out of a local directory.

  The operating system forgets the lock when this process ends in any way; the
  file that stays says nothing.
  """
  if fcntl is None or "://" in os.fspath(path):
    yield
    return
  with open(path / ".lock", "a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise ConfigError(
        f"--workdir={path} is in use by {file.read() or 'another process'}."
        " Wait for it or stop it, or choose another directory."
      ) from error
    except OSError as error:  # some network file systems have no locks
      logger.warning("%s can't be locked: %s", path, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    yield


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """Returns a config as what JSON can hold."""
  return json.loads(config.to_json_best_effort())


def write_result(workdir: epath.Path, result: dict[str, float]) -> None:
  """Marks a run as finished, with its last evaluation, in `result.json`."""
  files.write_json(workdir / "result.json", result)


def read_config(path: epath.Path) -> dict[str, Any] | None:
  """Returns the config.json of a workdir, or None if it has none.

  Raises:
    ConfigError: It is damaged.
  """
  file = path / "config.json"
  if not file.exists():
    return None
  try:
    config = json.loads(file.read_text())
  except ValueError as error:
    raise ConfigError(f"{file} is not JSON ({error}); remove it.") from error
  if not isinstance(config, dict):
    raise ConfigError(f"{file} holds no config; remove it.")
  return config


def has_begun(path: epath.Path) -> bool:
  """Whether a run left anything in its workdir that depends on its config."""
  checkpoints = path / "checkpoints"
  return (path / "metrics.jsonl").exists() or (
    checkpoints.exists() and any(checkpoints.iterdir())
  )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Says field by field how a config differs from that of an earlier process.

  Args:
    old: The config.json of a run.
    new: A config, as `to_dict` returns it.

  Returns:
    "sam.rho was 0.05 and is now 0.1" for every field that decides a result.
  """
  old, new = dict(flatten(old)), dict(flatten(new))
  return [
    f"{field} was {old.get(field)!r} and is now {new.get(field)!r}"
    for field in sorted(old.keys() | new.keys())
    if old.get(field) != new.get(field)
    and field not in FREE_FIELDS
    and not field.startswith("paper.")
  ]


def _check_same(old: dict, new: dict, path: epath.Path) -> None:
  different = differences(old, new)
  if different:
    raise ConfigError(
      f"--workdir={path} holds a run with another config:"
      f" {'; '.join(different)}. Use another workdir for another run."
    )
