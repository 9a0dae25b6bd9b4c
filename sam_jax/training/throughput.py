"""Speed of a run: images per second, and the time that remains."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator


class Stopwatch:
  """Counts the seconds of training, without pauses for other work."""

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._since: float | None = None  # None: not running
    self._seconds_before = 0.0
    self._laps: dict[int, float] = {}

  def start(self) -> None:
    """Start to count, unless it counts already."""
    if self._since is None:
      self._since = self._clock()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Do not count the time in the context."""
    was_running, self._seconds_before = self._since is not None, self.seconds
    self._since = None
    try:
      yield
    finally:
      if was_running:
        self.start()

  @property
  def seconds(self) -> float:
    """Return the seconds that were counted."""
    if self._since is None:
      return self._seconds_before
    return self._seconds_before + self._clock() - self._since

  def lap(self, step: int) -> float:
    """Return the seconds at which a run first reported that a step is done."""
    return self._laps.setdefault(step, self.seconds)


class Throughput:
  """Images per second and remaining time, counting only training."""

  def __init__(self, batch_size: int, total_steps: int, stopwatch: Stopwatch):
    self._batch_size, self._total_steps = batch_size, total_steps
    self._stopwatch = stopwatch
    self._first: tuple[float, int] | None = None  # seconds and step
    self._last = (0.0, 0)  # of the last reading

  @property
  def is_running(self) -> bool:
    """Return True after `start`."""
    return self._first is not None

  def start(self, step: int) -> None:
    """Start to count at a step that is done."""
    self._stopwatch.start()
    self._first = self._last = self._stopwatch.lap(step), step

  def read(self, step: int) -> tuple[float, float]:
    """Read the stopwatch when a step is done.

    Returns:
      Images per second since the last reading, and an estimate of the seconds
      that remain; NaN until a step has been measured.
    """
    seconds, (last_seconds, last_step) = self._stopwatch.lap(step), self._last
    self._last = seconds, step
    if not self._first or step <= last_step or seconds <= last_seconds:
      return math.nan, math.nan
    first_seconds, first_step = self._first
    images = self._batch_size * (step - last_step)
    seconds_per_step = (seconds - first_seconds) / (step - first_step)
    seconds_left = seconds_per_step * (self._total_steps - step)
    return images / (seconds - last_seconds), seconds_left
