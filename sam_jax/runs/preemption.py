"""Requests to stop a run: preemption, Ctrl-C and terminals that close."""

import logging
import signal
import types
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)

# SIGHUP reports that a terminal closed; Windows does not have it.
_HANGUP = getattr(signal, "SIGHUP", None)

# What `signal.signal` returns and takes back.
Handler = Callable[[int, types.FrameType | None], Any] | int | None


def stop_signals() -> list[signal.Signals]:
  """Return the signals that ask a process to stop.

  They are SIGINT (Ctrl-C), SIGTERM (preemption) and SIGHUP (a terminal that
  closes), the last one unless it is ignored, as under nohup.
  """
  signals = [signal.SIGINT, signal.SIGTERM]
  if _HANGUP and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
    signals.append(_HANGUP)
  return signals


def repeats_itself(number: int) -> bool:
  """Return True for a signal whose second arrival must not force an exit.

  When a terminal closes, both the shell and the kernel send SIGHUP.
  """
  return number == _HANGUP


class StopRequest:
  """Turn signals to stop into a question that the training loop asks.

  A signal may reach only one of several hosts; `jax.distributed` then makes all
  hosts agree on the step after which they stop. A second Ctrl-C interrupts at
  once.
  """

  def __init__(self) -> None:
    """Prepare to handle signals, which starts when the context is entered."""
    self._signal: int | None = None
    self._previous: dict[signal.Signals, Handler] = {}

  def __enter__(self) -> "StopRequest":
    for number in stop_signals():
      if number == signal.SIGTERM and jax.process_count() > 1:
        continue  # `jax.distributed` handles it
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def is_due(self, step: int) -> bool:
    """Return True if all hosts must save and stop after this step.

    With several hosts, every host must call it once after every step.

    Args:
      step: Steps done so far.
    """
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._signal is not None

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    if self._signal is not None:
      if repeats_itself(number):
        return
      raise KeyboardInterrupt
    self._signal = number
    logger.info("%s: stopping after this step.", signal.Signals(number).name)
    if jax.process_count() > 1:
      # Report it to the other hosts in the way that a preemption does.
      signal.raise_signal(signal.SIGTERM)
