"""Being asked to stop, by a preemption or by Ctrl-C, and by non-finite loss."""

import logging
import signal

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)


class DivergedError(FloatingPointError):
  """Loss or gradient is no longer finite."""


class StopRequest:
  """Turns SIGTERM and Ctrl-C into a question that the loop asks.

  On several hosts, where a signal may reach only one, `jax.distributed` makes
  all agree on the step. A second Ctrl-C interrupts at once.
  """

  def __init__(self):
    self._signal = None
    self._previous = {}

  def __enter__(self) -> "StopRequest":
    signals = [signal.SIGINT]
    if jax.process_count() == 1:
      signals.append(signal.SIGTERM)
    for number in signals:
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
      raise KeyboardInterrupt
    self._signal = number
    logger.info("%s: stopping after this step.", signal.Signals(number).name)
    if jax.process_count() > 1:  # tell the other hosts, as preemption would
      signal.raise_signal(signal.SIGTERM)
