"""Errors of checkpoints: damage, or storage that fails, each in one line."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator

from etils import epath

from sam_jax import buckets, paths
from sam_jax.config.schema import ConfigError
from sam_jax.runs.workdir import WorkdirLostError

# Status codes of TensorStore for a file that is missing, cut short, or can't be
# decoded. It does not print INVALID_ARGUMENT. The others say nothing about the
# content: UNKNOWN for a disk that fails, UNAVAILABLE, PERMISSION_DENIED.
_DAMAGE = {"DATA_LOSS", "FAILED_PRECONDITION", "NOT_FOUND", "OUT_OF_RANGE", ""}


class DamagedCheckpointError(ConfigError):
  """The content of a checkpoint is not what was saved."""


@contextlib.contextmanager
def reading(path: epath.Path) -> Iterator[None]:
  """Report in one line that a directory can't be read.

  Every storage layer has errors of its own, and none of them says that a
  checkpoint is lost.

  Raises:
    WorkdirLostError: Inside the context there was an error other than a
      ConfigError.
  """
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:
    cause = cause_of(error, path)
    raise WorkdirLostError(
      f"{path} can't be read: {cause}. Nothing was changed: run the same"
      " command again once the disk or the network works."
    ) from error


@contextlib.contextmanager
def finding_damage(path: epath.Path) -> Iterator[None]:
  """Find the errors that come from the content of a checkpoint.

  Raises:
    DamagedCheckpointError: Inside the context there was such an error; others
      pass.
  """
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:
    if _is_damage(error):
      raise DamagedCheckpointError(
        f"checkpoint {path} is damaged: {_brief(error)}."
      ) from error
    raise


@contextlib.contextmanager
def writing(directory: epath.Path) -> Iterator[None]:
  """Report in one line that a directory of checkpoints can't be written.

  Orbax passes on what its background threads raise: a ValueError of TensorStore
  for a full disk, errors of their own of clients of buckets.

  Raises:
    WorkdirLostError: Inside the context there was any error.
  """
  try:
    yield
  except Exception as error:
    cause = cause_of(error, directory)
    raise WorkdirLostError(
      f"{directory} can no longer be written: {cause}. Run the same command"
      " again: it resumes from the last checkpoint if there is one."
    ) from error


def _is_damage(error: Exception) -> bool:
  if isinstance(error, ValueError):
    match = re.match(r"([A-Z_]+): ", str(error))
    return (match[1] if match else "") in _DAMAGE
  return isinstance(error, FileNotFoundError | KeyError)


def cause_of(error: BaseException, path: epath.Path) -> str:
  """Return what went wrong with a path, in one line without a full stop.

  Args:
    error: An error of the operating system, TensorStore or a bucket's client.
    path: The path that was accessed.
  """
  if paths.is_remote(path) and buckets.is_error_of_bucket(error):
    return buckets.describe(error, path).rstrip(".")
  return _brief(error)


def _brief(error: BaseException) -> str:
  """Return the first line of an error, without the middle of TensorStore's.

  It has the form: CODE: what was done in which "file": ...: the cause [details]
  """
  lines = str(error).strip().splitlines() or [repr(error)]
  text = re.sub(r" \[\w+(\[\d+\])?='.*", "", lines[0])
  return re.sub(r'^([A-Z_]+: ).*": ', r"\1", text).rstrip(".")


def leave_out_tracebacks() -> None:
  """Keep Orbax from printing errors that it raises, too.

  Its threads log them with a traceback. After an error it closes its event
  loop: asyncio logs the other errors, and Python reports every array that
  TensorStore finishes later.
  """
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_has_no_traceback)  # once
  report = sys.unraisablehook
  if getattr(report, "__module__", None) == __name__:
    return

  def report_others(unraisable):
    if str(unraisable.exc_value) != "Event loop is closed":
      report(unraisable)

  sys.unraisablehook = report_others


def _has_no_traceback(record: logging.LogRecord) -> bool:
  is_of_orbax = record.name == "asyncio" or "orbax" in record.pathname
  return not (record.exc_info and is_of_orbax)
