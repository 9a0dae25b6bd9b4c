"""Being asked to stop, by a preemption or by Ctrl-C, and by non-finite loss."""

import logging
import signal

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)

_HANGUP = getattr(signal, "SIGHUP", None)


class DivergedError(FloatingPointError):
  """Loss or gradient is no longer finite."""


def stop_signals() -> list[signal.Signals]:
  """What asks a process to stop: Ctrl-C, SIGTERM, a terminal that closes.

  Not the last one under nohup, nor on Windows, which doesn't have it.
  """
  signals = [signal.SIGINT, signal.SIGTERM]
  if _HANGUP and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
    signals.append(_HANGUP)
  return signals


def repeats_itself(number: int) -> bool:
  """Whether a second signal of this kind is no sign of impatience.

  When a terminal closes, both the shell and the kernel say so.
  """
  return number == _HANGUP


class StopRequest:
  """Turns the signals to stop into a question that the loop asks.

  On several hosts, where a signal may reach only one, `jax.distributed` makes
  all agree on the step. A second Ctrl-C interrupts at once.
  """

  def __init__(self):
    self._signal = None
    self._previous = {}

  def __enter__(self) -> "StopRequest":
    for number in stop_signals():
      if number == signal.SIGTERM and jax.process_count() > 1:
        continue  # `jax.distributed` listens to it
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def is_due(self, step: int) -> bool:
    """Whether to save and stop after this step; all hosts agree."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._signal is not None

  def _handle(self, number, frame) -> None:
    del frame
    if self._signal is not None:
      if repeats_itself(number):
        return
      raise KeyboardInterrupt
    self._signal = number
    logger.info("%s: stopping after this step.", signal.Signals(number).name)
    if jax.process_count() > 1:  # tell the other hosts, as preemption would
      signal.raise_signal(signal.SIGTERM)
