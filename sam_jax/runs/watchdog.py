"""End all processes of a run together when one of them fails.

A process that fails alone would leave the others waiting for it in a collective
operation. Instead it publishes its exit code and its reason in a store that all
processes share, where a thread of every other process looks once a second.
"""

import contextlib
import ctypes
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_SECONDS_BETWEEN_LOOKS = 1.0

# When a process that waits says so first, and how often it says so again.
_SECONDS_OF_PATIENCE = 10.0
_SECONDS_BETWEEN_LINES = 30.0

# How long a process that ends waits until the others have seen the reason. If
# it closed its connections at once, they would report a lost connection.
_SECONDS_TO_NOTICE = 5.0
_SECONDS_TO_END = 0.5

_FAILURES = "sam_jax/failures"
_LEAVING = "sam_jax/leaving"

# What errors of lost connections have in common.
_CONNECTION = re.compile("gloo|nccl|coordination|heartbeat", re.IGNORECASE)

_START_AGAIN = (
  "Start all processes again with the same command: they resume from the last"
  " checkpoint."
)

# A process reports one failure: the thread that holds this lock ends it, with
# this code. The lock is reentrant, because a signal may interrupt that thread.
_ending = threading.RLock()
_exit_code = 1

_watchdog: "_Watchdog | None" = None


def start(client: Any, process_id: int, num_processes: int) -> None:
  """Watch the other processes of the run from now on.

  Args:
    client: Store of all processes, a `DistributedRuntimeClient` of JAX.
    process_id: Index of this process.
    num_processes: Number of processes of the run.
  """
  global _watchdog
  _watchdog = _Watchdog(client, process_id, num_processes)


def check_regularly(check: Callable[[], None]) -> None:
  """Let a failure in the background of this process end all processes.

  The main thread may not hear of it while it waits for the other processes.

  Args:
    check: Raises an exception after such a failure; called in another thread.
      Without other processes, it is not called.
  """
  if _watchdog:
    _watchdog.checks.append(check)


def leave(code: int, line: str, error: BaseException | None = None) -> NoReturn:
  """Report why this process ends to all others and to the user, and exit.

  No `finally` block and no exit handler runs: some would wait for the others.

  Args:
    code: Exit code of all processes.
    line: The reason, without "error: ".
    error: An exception whose traceback helps, if there is one.
  """
  with _ending:
    _report(code, line, error)
    if _watchdog:
      _watchdog.publish(code, line)
    os._exit(code)


def _report(code: int, line: str, error: BaseException | None = None) -> None:
  global _exit_code
  _exit_code = code
  # The terminal may be closed, or a library may have redirected a stream. No
  # error here may keep the process alive.
  with contextlib.suppress(Exception):
    if error:
      traceback.print_exception(error)
    kind = "error: " if code else ""
    print(f"{kind}{line}", file=sys.stderr, flush=True)
    sys.stdout.flush()


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """End all processes of the run if the context fails in this one.

  Without other processes, exceptions pass unchanged.
  """
  try:
    yield
    if _watchdog:
      _watchdog.wait_for_all()
  except BaseException as error:
    if not _watchdog:
      raise
    if _reason_of_cpp(error):
      # A collective operation fails too when another process ends: let the
      # watchdog report the reason of that process, if it published one.
      time.sleep(3 * _SECONDS_BETWEEN_LOOKS)
    leave(*_outcome(error, _watchdog.process_id))


@contextlib.contextmanager
def waiting(
  whom: Callable[[], str],
  limit: float = float("inf"),
) -> Iterator[None]:
  """Report for whom this process waits while the context takes long.

  Args:
    whom: Returns for whom; called in another thread.
    limit: Seconds after which the process gives up, with exit code 1.
  """
  is_over = threading.Event()

  def report() -> None:
    start, pause = time.monotonic(), _SECONDS_OF_PATIENCE
    while not is_over.wait(pause):
      elapsed = time.monotonic() - start
      if elapsed >= limit:
        leave(1, f"no answer in {limit:.0f} s from {whom()}. {_START_AGAIN}")
      print(f"waiting for {whom()} ...", file=sys.stderr, flush=True)
      pause = min(_SECONDS_BETWEEN_LINES, limit - elapsed)

  thread = threading.Thread(target=report, name="waiting", daemon=True)
  thread.start()
  try:
    yield
  finally:
    is_over.set()
    thread.join()


def report_lost_connections(describe: Callable[[], str]) -> None:
  """Let a lost connection end this process with one line and code 1.

  JAX's client calls `std::terminate` when the coordination service reports that
  a process died, or is gone itself, if its callback is a Python function (it
  cannot convert the argument). Python cannot catch that, so replace the
  handler. Without libstdc++, for example on a Mac, C++ ends the process and
  shows a message of its own.

  Args:
    describe: Returns what was lost; called in another thread.
  """
  global _terminate_handler

  def end() -> None:
    # The thread that ends the process may wait for a lock of JAX's client,
    # which this one holds.
    if _ending.acquire(timeout=1):
      _report(1, f"{describe()} {_START_AGAIN}")
    os._exit(_exit_code)

  try:
    set_terminate = ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE
  except (OSError, AttributeError):
    return
  _terminate_handler = ctypes.CFUNCTYPE(None)(end)  # C++ needs it for ever
  set_terminate(_terminate_handler)


_terminate_handler: Any = None


class _Watchdog:
  """A thread that ends this process when another one reports a failure."""

  def __init__(self, client: Any, process_id: int, num_processes: int):
    self.process_id = process_id
    self.checks: list[Callable[[], None]] = []
    self._client, self._num_processes = client, num_processes
    self._is_over = threading.Event()
    self._thread = threading.Thread(
      target=self._watch, name="watchdog", daemon=True
    )
    self._thread.start()

  def publish(self, code: int, line: str) -> None:
    """Tell the other processes why this one fails; wait until they know."""
    failure = json.dumps([self.process_id, code, line])
    with contextlib.suppress(Exception):  # the store may be lost
      self._client.key_value_set(f"{_FAILURES}/{self.process_id}", failure)
    self._wait_until_all_leave()

  def wait_for_all(self) -> None:
    """Wait until all processes have done their work; then stop watching."""
    import jax

    with waiting(lambda: "other processes to finish"):
      jax.distributed.shutdown()
    self._is_over.set()
    # An exception of a C++ library in a thread that runs while the interpreter
    # is shut down would abort the process.
    self._thread.join()

  def _watch(self) -> None:
    while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
      for check in self.checks:
        try:
          check()
        except Exception as error:
          leave(*_outcome(error, self.process_id))
      # JAX notices lost connections; see `report_lost_connections`.
      with contextlib.suppress(Exception):
        for _, failure in self._client.key_value_dir_get(_FAILURES):
          self._follow(*json.loads(failure))

  def _follow(self, process: int, code: int, line: str) -> None:
    """End as another process does."""
    with _ending:
      outcome = " failed" if code else ""
      _report(code, f"process {process}{outcome}: {line}")
      self._wait_until_all_leave()
      os._exit(code)

  def _wait_until_all_leave(self) -> None:
    deadline = time.monotonic() + _SECONDS_TO_NOTICE
    with contextlib.suppress(Exception):
      self._client.key_value_set(f"{_LEAVING}/{self.process_id}", "")
      while time.monotonic() < deadline:
        if len(self._client.key_value_dir_get(_LEAVING)) == self._num_processes:
          break
        time.sleep(0.05)
    if self.process_id == 0:  # the store is lost when it ends: be the last
      time.sleep(_SECONDS_TO_END)


def _outcome(
  error: BaseException, process_id: int
) -> tuple[int, str, BaseException | None]:
  """Return the arguments of `leave` for a process that fails."""
  from sam_jax.config.field_type import ConfigError
  from sam_jax.datasets.catalog import DatasetError
  from sam_jax.runs.workdir import WorkdirLostError

  if isinstance(error, ConfigError | DatasetError):
    return 2, str(error), None
  if reason := _reason_of_cpp(error):
    line = f"process {process_id} lost the others, or failed itself: {reason}"
    return 1, f"{line.rstrip('. ')}. {_START_AGAIN}", None
  if isinstance(error, SystemExit):
    if isinstance(error.code, str):
      return 1, error.code.removeprefix("error: "), None
    return error.code or 0, f"exit code {error.code or 0}.", None
  if isinstance(error, WorkdirLostError):
    return 1, str(error), None
  reason = (str(error).splitlines() or [""])[0]
  return 1, f"{type(error).__name__}: {reason}", error


def _reason_of_cpp(error: BaseException | None) -> str:
  """Return the first line of an error of JAX's runtime; "" for other errors.

  A lost connection may be the cause of another error, for example in a save.
  """
  reason = ""
  while error:
    lines = str(error).splitlines() or [""]
    is_status = re.match("[A-Z_]+: ", lines[0])
    if is_status and (not reason or _CONNECTION.search(lines[0])):
      reason = lines[0]
    if not is_status and not _CONNECTION.search(lines[0]):
      return reason
    error = error.__cause__
  return reason
