"""A lock on a directory in a bucket, where no operating system keeps locks.

The owner of the directory writes an object again and again. Its generation,
which every upload changes, is a precondition of the next upload: of two
processes only one can take or keep the object. An owner that was killed stops
writing, and then the next process takes over.
"""

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from etils import epath

from sam_jax.config.schema import ConfigError

logger = logging.getLogger(__name__)

_NAME = ".lock"

# Seconds between two uploads by the owner, between two looks at the lock of
# another process, and until that process has lost it.
_REFRESH = 15.0
_LOOK = 3.0
_EXPIRY = 60.0


@contextlib.contextmanager
def hold(directory: epath.Path) -> Iterator[None]:
  """Keep other processes out of a directory in a bucket.

  If this process can't keep the lock, because it was suspended or without a
  network for so long that another one took over, it ends with exit code 1.

  Args:
    directory: A gs:// path.

  Raises:
    ConfigError: Another process holds the lock.
  """
  lock = _Lock(directory)
  lock.take()
  is_over = threading.Event()
  thread = threading.Thread(
    target=lock.keep, args=(is_over, _leave), daemon=True
  )
  thread.start()
  try:
    yield
  finally:
    is_over.set()
    thread.join(_REFRESH)
    with contextlib.suppress(Exception):  # without this it expires
      lock.release()


def _leave(directory: epath.Path) -> None:
  """End this process: what it does next could damage the run of another."""
  print(
    f"error: another process has taken over --workdir={directory}, because this"
    f" one did not answer for {_EXPIRY:.0f} s.",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


class _Lock:
  """The object that names the owner of a directory."""

  def __init__(self, directory: epath.Path):
    from google.cloud import storage

    path = str(directory / _NAME).removeprefix("gs://")
    bucket, _, self._name = path.partition("/")
    self._bucket = storage.Client().bucket(bucket)
    self._directory = directory
    # Unique: in containers, process numbers and names of hosts are used again.
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    self._text = f"{owner} ({uuid.uuid4().hex[:8]})"
    self._generation = 0

  def take(self) -> None:
    """Take the lock; wait if its owner may have been killed.

    Raises:
      ConfigError: Another process holds it.
    """
    if self._write(0):
      return
    first = self._read()
    logger.info(
      "%s is locked by %s. Waiting for up to %.0f s to see whether it runs.",
      *(self._directory, first and first[0], _EXPIRY),
    )
    deadline = time.monotonic() + _EXPIRY
    while True:
      found = self._read()
      owner, generation = found or ("another process", 0)
      has_ended = found is None or _has_ended(owner)
      may_take = has_ended or time.monotonic() > deadline
      if may_take and self._write(generation):
        return
      if found and found != first:
        raise ConfigError(
          f"--workdir={self._directory} is in use by {owner}. Wait for it or"
          " stop it, or choose another directory."
        )
      time.sleep(_LOOK)

  def keep(
    self, is_over: threading.Event, leave: Callable[[epath.Path], None]
  ) -> None:
    """Write the lock again and again.

    Args:
      is_over: Ends the loop.
      leave: What to do if another process has taken the lock.
    """
    while not is_over.wait(_REFRESH):
      try:
        is_ours = self._write(self._generation)
      except Exception as error:  # the next upload may succeed
        logger.warning("The lock of the workdir can't be written: %s", error)
        continue
      if not is_ours:
        leave(self._directory)
        return

  def release(self) -> None:
    """Delete the lock if this process still holds it."""
    blob = self._bucket.blob(self._name)
    blob.delete(if_generation_match=self._generation)

  def _write(self, generation: int) -> bool:
    """Write the lock if it has a generation; 0 means that it does not exist.

    Returns:
      False if another process has written it.
    """
    from google.api_core import exceptions

    blob = self._bucket.blob(self._name)
    try:
      blob.upload_from_string(self._text, if_generation_match=generation)
      self._generation = blob.generation
    except exceptions.PreconditionFailed:
      # An upload may succeed without an answer, and its repetition then fails.
      found = self._read()
      if found is None or found[0] != self._text:
        return False
      self._generation = found[1]
    return True

  def _read(self) -> tuple[str, int] | None:
    """Return the text and the generation of the lock; None without a lock."""
    from google.api_core import exceptions

    blob = self._bucket.blob(self._name)
    try:
      text = blob.download_as_text()
    except exceptions.NotFound:
      return None
    return text, int(blob.generation)


def _has_ended(owner: str) -> bool:
  """Return True if a process ran on this host and is no more."""
  words = owner.split()
  if len(words) != 5 or words[3] != socket.gethostname():
    return False
  number = int(words[1])
  try:
    os.kill(number, 0)
  except ProcessLookupError:
    return True
  except OSError:  # of another user
    return False
  return number == os.getpid()  # used again
