"""Directories of logs whose files grow: local ones, and those in a bucket.

A bucket cannot append to a file. Logs of a remote directory are therefore
written to a local one, and a thread uploads them whole: rarely, because each
upload sends everything again.
"""

import concurrent.futures
import contextlib
import errno
import logging
import os
import pathlib
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator

from etils import epath

from sam_jax import paths

logger = logging.getLogger(__name__)

# Seconds between two uploads; more for large files, so that on average no more
# than this many bytes per second are sent. A kill loses the lines of that time.
_SECONDS = 30.0
_BYTES_PER_SECOND = 2**20

# Seconds that a run waits for an upload before a checkpoint, which must be
# within the notice of a preemption, and at its end.
_WAIT_BEFORE_CHECKPOINT = 10.0
_WAIT_AT_END = 60.0


_Upload = concurrent.futures.Future[None]


class StagedLogs:
  """A directory of logs, and the local directory where they are written.

  Attributes:
    directory: Where readers find the logs.
    path: Where to write them: the same directory, if it is local.
  """

  def __init__(self, directory: epath.PathLike):
    """Open a directory.

    Args:
      directory: Local or gs:// path; it exists.
    """
    self.directory = paths.resolve(directory)
    self._uploads: _Uploads | None = None
    if not paths.is_remote(self.directory):
      self.path = pathlib.Path(self.directory)
      return
    self.path = pathlib.Path(tempfile.mkdtemp(prefix="sam_jax-logs-"))
    self._uploads = _Uploads(self.path, self.directory)

  def names(self) -> list[str]:
    """Return the names of the files that readers find."""
    with one_line_errors("can't be listed", self.directory):
      return [file.name for file in self.directory.iterdir()]

  def fetch(self, name: str) -> None:
    """Copy a file of an earlier process, if there is one, to `path`."""
    source, target = self.directory / name, self.path / name
    if self._uploads is None:
      return
    with one_line_errors("can't be read", source):
      if source.exists():
        target.write_bytes(source.read_bytes())

  def upload(self) -> None:
    """Wait until readers find everything that was written so far.

    A failure, or an upload that takes long, is a warning: the next upload sends
    the whole files again.
    """
    if self._uploads is None:
      return
    with contextlib.suppress(OSError):  # reported by `_Uploads`
      self._uploads.upload(_WAIT_BEFORE_CHECKPOINT)

  def close(self) -> None:
    """Upload everything that was written, for the last time.

    Raises:
      OSError: It failed; the message names the local copy, which is kept.
    """
    if self._uploads is None:
      return
    uploads, self._uploads = self._uploads, None
    try:
      uploads.upload(_WAIT_AT_END)
    except OSError as error:
      raise OSError(
        error.errno,
        f"{error.strerror} (a copy is in {self.path})",
        error.filename,
      ) from error
    finally:
      uploads.end()
    shutil.rmtree(self.path, ignore_errors=True)


class _Uploads:
  """A thread that uploads the files of a directory when they have grown."""

  def __init__(self, source: pathlib.Path, target: epath.Path):
    self._source, self._target = source, target
    self._uploaded: dict[str, int] = {}  # bytes by name
    self._is_failing = False
    # Who waits for an upload puts a future here; None ends the thread.
    self._waiting: queue.SimpleQueue[_Upload | None] = queue.SimpleQueue()
    # A daemon, because an upload that hangs must not keep the process alive.
    threading.Thread(target=self._run, name="log uploads", daemon=True).start()

  def upload(self, max_seconds: float) -> None:
    """Upload now, and wait for it.

    Args:
      max_seconds: Time to wait.

    Raises:
      OSError: It failed, which the log reports, or it takes too long.
    """
    done = _Upload()
    self._waiting.put(done)
    try:
      done.result(max_seconds)
    except TimeoutError as error:
      text = f"the logs were not uploaded within {max_seconds:.0f} s"
      logger.warning("%s: %s", self._target, text)
      raise OSError(errno.ETIMEDOUT, text, os.fspath(self._target)) from error

  def end(self) -> None:
    """End the thread after the uploads that were asked for."""
    self._waiting.put(None)

  def _run(self) -> None:
    pause = _SECONDS
    while True:
      waiting: _Upload | None = _Upload()
      with contextlib.suppress(queue.Empty):
        waiting = self._waiting.get(timeout=pause)
      if waiting is None:
        return
      try:
        sent = self._upload_changed()
      except Exception as error:  # each kind of storage has its own
        self._report(error)
        waiting.set_exception(error)
        pause = _SECONDS
      else:
        self._report(None)
        waiting.set_result(None)
        pause = max(_SECONDS, sent / _BYTES_PER_SECOND)

  def _upload_changed(self) -> int:
    """Upload the files that have grown; return the number of bytes sent."""
    sent = 0
    for file in sorted(self._source.iterdir()):
      if file.stat().st_size == self._uploaded.get(file.name):
        continue
      data = file.read_bytes()
      target = self._target / file.name
      with one_line_errors("can't be uploaded", target):
        target.write_bytes(data)  # buckets show a file when it is complete
      self._uploaded[file.name] = len(data)
      sent += len(data)
    return sent

  def _report(self, error: Exception | None) -> None:
    """Log the first of several failures, and the first success after them."""
    if error and not self._is_failing:
      logger.warning("Logs can't be uploaded, will try again: %s", error)
    if self._is_failing and not error:
      logger.info("Logs are uploaded again to %s.", self._target)
    self._is_failing = error is not None


@contextlib.contextmanager
def one_line_errors(problem: str, path: epath.PathLike) -> Iterator[None]:
  """Raise what goes wrong with a file as an OSError that names the file.

  Errors of `write` and `flush` name no file, and clients of buckets raise
  errors of their own.

  Args:
    problem: What the message says about the file unless the operating system
      has a text for it, such as "can't be read".
    path: The file.

  Raises:
    OSError: Any exception was raised inside the context.
  """
  try:
    yield
  except Exception as error:
    number = getattr(error, "errno", None) or errno.EIO
    cause = getattr(error, "strerror", None)
    if cause is None:
      lines = str(error).splitlines() or [repr(error)]
      cause = f"{problem}: {lines[0]}"
    raise OSError(number, cause, os.fspath(path)) from error
