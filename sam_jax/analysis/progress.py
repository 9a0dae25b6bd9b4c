"""How far a long task is: a bar on a terminal, lines in a log file."""

import logging
import sys
import time

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0
_WIDTH = 30


class Progress:
  """Counts steps of a task, and says how long the others will take.

  A context manager: the bar ends with it.
  """

  def __init__(self, what: str, total: int):
    """Shows an empty bar on a terminal.

    Args:
      what: The task, in words.
      total: Its steps.
    """
    self._what, self._total = what, total
    self._done = 0
    self._computed = None  # after the first time
    self._start = self._first = self._shown = time.monotonic()
    self._on_terminal = sys.stderr.isatty()

  @property
  def done(self) -> int:
    """Steps so far."""
    return self._done

  def __enter__(self) -> "Progress":
    if self._on_terminal:
      self._draw("")
    return self

  def __exit__(self, *error: object) -> None:
    seconds = time.monotonic() - self._start
    if self._on_terminal:
      print(file=sys.stderr)
    elif seconds > 1 and self._done == self._total:
      logger.info("%s: done in %.0f s", self._what, seconds)

  def advance(self, count: int = 1) -> None:
    """So many more steps are done."""
    if not count:
      return
    self._done += count
    now = time.monotonic()
    if self._computed is None:  # it was compiled too: that says nothing
      self._computed, self._first = 0, now
    else:
      self._computed += count
    if self._on_terminal:
      self._draw(self._time_left(now))
    elif now - self._shown > _SECONDS_BETWEEN_LINES:
      self._shown = now
      count = f"{self._done} of {self._total}"
      logger.info("%s: %s%s", self._what, count, self._time_left(now))

  def skip(self, count: int) -> None:
    """So many steps need not be done."""
    self._done += count
    if self._on_terminal:
      self._draw(self._time_left(time.monotonic()))

  def _time_left(self, now: float) -> str:
    if not self._computed:
      return ""
    each = (now - self._first) / self._computed
    return f", {each * (self._total - self._done):.0f} s left"

  def _draw(self, time_left: str) -> None:
    full = _WIDTH * self._done // max(self._total, 1)
    bar = "#" * full + "." * (_WIDTH - full)
    text = f"{self._what} [{bar}] {self._done}/{self._total}{time_left}"
    # Back to the start of the line, and nothing of a longer one stays.
    print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
