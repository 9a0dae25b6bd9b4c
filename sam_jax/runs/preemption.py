"""Requests to stop a run: preemption, Ctrl-C and terminals that close."""

import contextlib
import logging
import signal
import types
from typing import Any

import jax
from jax.experimental import multihost_utils

from sam_jax.runs import signals

logger = logging.getLogger(__name__)


class StoppedError(Exception):
  """All hosts must save their state and stop now."""


class StopRequest:
  """Turn signals to stop into a question that the training loop asks.

  A signal may reach only one of several hosts; `jax.distributed` then makes all
  hosts agree on the call of `is_due` after which they stop. A second Ctrl-C
  interrupts at once. Signals are handled from the call of `listen` to the end
  of the context, if that is in the main thread.
  """

  def __init__(self) -> None:
    self._signal: int | None = None
    self._calls, self._is_due = 0, False
    self._previous: dict[int, signals.Handler] = {}
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> "StopRequest":
    return self

  def __exit__(self, *exc_info: Any) -> None:
    self._stack.close()

  def listen(self) -> None:
    """Start to handle signals."""
    # With several hosts, `jax.distributed` handles SIGTERM.
    omitted = [signal.SIGTERM] if jax.process_count() > 1 else []
    self._previous = self._stack.enter_context(
      signals.handled_by(self._handle, omitted)
    )

  def is_due(self) -> bool:
    """Return True if all hosts must save and stop now.

    With several hosts, every host must call it at the same points of a run:
    their number is what the hosts agree on.
    """
    self._calls += 1
    if jax.process_count() == 1:
      return self._signal is not None
    if multihost_utils.reached_preemption_sync_point(self._calls):
      self._is_due = True
    return self._is_due

  def check(self) -> None:
    """Ask `is_due` within a measurement.

    Raises:
      StoppedError: It is.
    """
    if self.is_due():
      raise StoppedError

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    if self._signal is not None:
      if signals.forces_exit(number):
        self._interrupt(number, frame)
      return
    self._signal = number
    logger.info("%s: saving and stopping.", signal.Signals(number).name)
    if jax.process_count() > 1:
      # Report it to the other hosts in the way that a preemption does.
      signal.raise_signal(signal.SIGTERM)

  def _interrupt(self, number: int, frame: types.FrameType | None) -> None:
    """Do what the signal did before this object handled it."""
    previous = self._previous[number]
    if not callable(previous):
      raise KeyboardInterrupt
    previous(number, frame)
