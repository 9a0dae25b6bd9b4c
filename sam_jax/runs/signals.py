"""Signals that ask a process to stop, and what they do before it trains."""

import contextlib
import signal
import threading
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

from sam_jax.runs import watchdog

# What `signal.signal` returns and takes back.
Handler = Callable[[int, types.FrameType | None], Any] | int | None

# SIGHUP reports that a terminal closed. Clusters announce the end of a job by
# SIGUSR1 or SIGUSR2. Windows has none of them.
_OF_UNIX = ("SIGHUP", "SIGUSR1", "SIGUSR2")

_EXIT_CODE_OF_INTERRUPT = 130


def stop_signals() -> list[signal.Signals]:
  """Return the signals that ask a process to stop.

  They are SIGINT (Ctrl-C), SIGTERM (preemption), SIGUSR1 and SIGUSR2 (the end
  of a job) and SIGHUP (a terminal that closes), the last one unless it is
  ignored, as under nohup.
  """
  signals = [signal.SIGINT, signal.SIGTERM]
  signals += [s for s in signal.Signals if s.name in _OF_UNIX]
  hangup = getattr(signal, "SIGHUP", None)
  if hangup and signal.getsignal(hangup) is signal.SIG_IGN:
    signals.remove(hangup)
  return signals


def forces_exit(number: int) -> bool:
  """Return True for a signal whose second arrival means: at once.

  Only people are impatient: a cluster sends SIGTERM some time after SIGUSR1,
  and a terminal that closes sends SIGHUP twice.
  """
  return number == signal.SIGINT


@contextlib.contextmanager
def handled_by(
  handler: Handler, omitted: Collection[int] = ()
) -> Iterator[dict[int, Handler]]:
  """Handle signals to stop in the context.

  Only the main thread can: in another one, the context changes nothing.

  Args:
    handler: As `signal.signal` takes it.
    omitted: Signals to stop that it does not handle.

  Yields:
    The handlers from before, by signal.
  """
  previous: dict[int, Handler] = {}
  if threading.current_thread() is threading.main_thread():
    for number in set(stop_signals()).difference(omitted):
      previous[number] = signal.signal(number, handler)
  try:
    yield previous
  finally:
    for stopping, before in previous.items():
      signal.signal(stopping, before)


def exit_at_once(number: int, frame: types.FrameType | None = None) -> None:
  """Handle a signal: end the process with one line.

  The exit code is 0, as for a run that stops at a step, so that jobs are
  requeued; it is 130 for Ctrl-C, as in shells.
  """
  del frame
  watchdog.leave(
    _EXIT_CODE_OF_INTERRUPT if number == signal.SIGINT else 0,
    f"stopped by {signal.Signals(number).name}. The same command starts again,"
    " from the last checkpoint if there is one.",
  )
