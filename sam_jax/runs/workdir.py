"""The directory of a run: its owner, its config and its result."""

import contextlib
import errno
import json
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax import buckets, paths
from sam_jax.config.schema import (
  ConfigError,
  default_fields,
  field_of,
  flatten,
  free_fields,
)
from sam_jax.runs import files, lease

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

# Errors of a disk that is full, and of one that fails.
_FULL = (errno.EDQUOT, errno.ENOSPC)
_FAILING = (errno.EIO, errno.EROFS, errno.ESTALE)

_REMEDY = "Restore it from a copy, or use another workdir."


class WorkdirLostError(OSError):
  """A workdir can no longer be read or written."""


@contextlib.contextmanager
def claim(workdir: epath.PathLike, config: ConfigDict) -> Iterator[epath.Path]:
  """Reserve a directory for one run and for this process.

  No other process can claim the directory inside the context. A directory whose
  run never began, for example because its data was missing, may be
  claimed with any other config.

  Args:
    workdir: Local or gs:// path; it is created if missing.
    config: Config of the run.

  Yields:
    The directory, which now contains `config.json`.

  Raises:
    ConfigError: The directory cannot be written, is in use by another process,
      belongs to a run with another config (the message names the fields that
      differ), or lacks the config of its run.
    WorkdirLostError: Inside the context the directory was removed, or the disk
      was full or failed.
  """
  path = paths.resolve(workdir)
  buckets.check(path, "--workdir", for_checkpoints=True)
  with contextlib.ExitStack() as stack:
    try:
      path.mkdir(parents=True, exist_ok=True)
      if jax.process_index() == 0:
        stack.enter_context(_lock(path))
      _check_same(path, to_dict(config))
      if jax.process_index() == 0:
        files.write_json(path / "config.json", to_dict(config))
    except ConfigError:
      raise
    except Exception as error:  # gs:// clients raise errors of their own
      if paths.is_remote(path):
        cause = buckets.describe(error, path)
        raise ConfigError(f"--workdir={workdir}: {cause}") from error
      raise ConfigError(
        f"--workdir={workdir} can't be written:"
        f" {getattr(error, 'strerror', None) or error}. Choose another"
        " directory."
      ) from error
    try:
      yield path
    except WorkdirLostError:
      raise
    except Exception as error:
      if isinstance(error, OSError) and _is_of_workdir(error, path):
        cause = str(error)
      elif buckets.is_error_of_bucket(error):
        cause = buckets.describe(error, path).rstrip(".")
      else:
        raise
      raise WorkdirLostError(
        f"--workdir={workdir} can no longer be written: {cause}. Run the same"
        " command again: it resumes from the last checkpoint if there is one."
      ) from error


def _is_of_workdir(error: OSError, path: epath.Path) -> bool:
  """Return True if an error is one of the workdir or of its disk."""
  if error.filename is None:
    return error.errno in (*_FULL, *_FAILING)
  return error.errno in _FULL or os.fspath(path) in str(error.filename)


@contextlib.contextmanager
def _lock(path: epath.Path) -> Iterator[None]:
  """Keep other processes out of a directory.

  The operating system releases the lock of a local directory when this process
  ends for any reason; the lock file that remains does not mean that the
  directory is in use.
  """
  if paths.is_remote(path):
    with lease.hold(path):
      yield
    return
  if fcntl is None:
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
    except OSError as error:  # some network file systems do not support locks
      logger.warning("%s can't be locked: %s", path, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    yield


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """Return a config as nested dicts of JSON values."""
  return json.loads(config.to_json_best_effort())


def deciding_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields of a config that may change the result of a run.

  Args:
    config: A config as `to_dict` returns it, or the `config.json` of a run.
      Fields that it lacks have their defaults: an older version wrote it.

  Returns:
    Values by dotted name, such as {"sam.rho": 0.05}.
  """
  free = free_fields()
  fields = {**default_fields(), **dict(flatten(config))}
  return {k: v for k, v in fields.items() if k not in free}


def check_present(workdir: epath.PathLike) -> None:
  """Check that nobody removed a workdir under the run that trains in it.

  Open logs take lines after their removal, and Orbax makes its directories
  again: without this check, such a run would end as if nothing were missing.

  Raises:
    WorkdirLostError: Its config.json is gone.
  """
  file = paths.resolve(workdir) / "config.json"
  if not file.exists():
    raise WorkdirLostError(
      f"{file} was removed while the run trained: its logs are lost, too. Start"
      " it again in a new workdir."
    )


def write_result(workdir: epath.PathLike, result: Mapping[str, float]) -> None:
  """Mark a run as finished: write its last evaluation to `result.json`."""
  files.write_json(paths.resolve(workdir) / "result.json", dict(result))


def read_result(path: epath.Path) -> dict[str, float] | None:
  """Return the numbers of the `result.json` of a workdir, or None without one.

  Raises:
    ConfigError: The file is damaged; the message does not name the workdir.
    OSError: It can't be read; clients for gs:// raise errors of their own.
  """
  file = path / "result.json"
  # Reading a named pipe, a file for epath, would wait forever.
  if os.path.exists(file) and not os.path.isfile(file):
    raise ConfigError(f"{file.name} is not a file")
  try:
    result = json.loads(file.read_bytes())
  except FileNotFoundError:
    return None
  except (ValueError, RecursionError):
    result = None
  if not isinstance(result, dict):
    raise ConfigError(f"{file.name} is not a JSON object")
  numbers = {k: v for k, v in result.items() if is_number(v)}
  step, error = numbers.get("step", 0), numbers.get("error_rate", -1)
  wrong = ["step"] * (step <= 0) + ["error_rate"] * (not 0 <= error <= 1)
  if wrong:
    raise ConfigError(f"{file.name} has no valid {', '.join(wrong)}")
  return numbers


def is_number(value: Any) -> bool:
  """Return True for an integer or a finite float, as JSON has them."""
  if type(value) not in (int, float):  # a bool is an int, too
    return False
  try:
    return math.isfinite(value)
  except OverflowError:  # an integer beyond the range of floats
    return False


def read_config(path: epath.Path) -> dict[str, Any] | None:
  """Return the `config.json` of a workdir, or None if there is none.

  Raises:
    ConfigError: The file is damaged.
  """
  file = path / "config.json"
  if not file.exists():
    return None
  try:
    config = json.loads(file.read_text())
  except ValueError as error:
    raise ConfigError(f"{file} is not JSON ({error}). {_REMEDY}") from error
  if not isinstance(config, dict):
    raise ConfigError(f"{file} is not a config. {_REMEDY}")
  return config


def check_known_fields(path: epath.Path, config: Mapping[str, Any]) -> None:
  """Check that this version of the code knows every field of a run.

  Args:
    path: The workdir.
    config: Its `config.json`.

  Raises:
    ConfigError: A newer version wrote the file.
  """
  for name, value in flatten(config):
    if field_of(name) is None:
      raise ConfigError(
        f"{path / 'config.json'} has the field {name} = {value!r}, which this"
        " version of sam_jax does not know: a newer version wrote the file. Use"
        " that version, or another workdir."
      )


def has_begun(path: epath.Path) -> bool:
  """Return True if a workdir contains logs or checkpoints of a run."""
  checkpoints = path / "checkpoints"
  return (path / "metrics.jsonl").exists() or (
    checkpoints.exists() and any(checkpoints.iterdir())
  )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Describe how a config differs from the config of an earlier process.

  Args:
    old: The `config.json` of a run.
    new: A config as `to_dict` returns it.

  Returns:
    One text such as "sam.rho was 0.05 and is now 0.1" for each field that may
    change the result, sorted by name.
  """
  before, after = deciding_fields(old), deciding_fields(new)
  return [
    f"{field} was {before.get(field)!r} and is now {after.get(field)!r}"
    for field in sorted(before.keys() | after.keys())
    if before.get(field) != after.get(field)
  ]


def _check_same(path: epath.Path, new: Mapping[str, Any]) -> None:
  """Check that a workdir has no run, or the run of a config.

  Args:
    path: The workdir.
    new: A config as `to_dict` returns it.

  Raises:
    ConfigError: The run is another one, or its config is missing.
  """
  checkpoints = path / "checkpoints"
  if checkpoints.exists() and not checkpoints.is_dir():
    raise ConfigError(f"{checkpoints} must be a directory: remove the file.")
  old = read_config(path)
  if not has_begun(path):
    return
  if old is None:
    raise ConfigError(
      f"--workdir={path} holds a run without its config.json. {_REMEDY}"
    )
  check_known_fields(path, old)
  if different := differences(old, new):
    raise ConfigError(
      f"--workdir={path} holds a run with another config:"
      f" {'; '.join(different)}. Use another workdir for another run."
    )
