"""Time alternatives side by side, so that a busy machine slows all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax

Name = TypeVar("Name", str, int)


class Spread(NamedTuple):
  """Median and quartiles of repeated measurements."""

  median: float
  low: float
  high: float


def interleave(
  alternatives: Mapping[Name, Callable[[], Any]],
  rounds: int,
  clock: Callable[[], float] | None = None,
) -> dict[Name, list[float]]:
  """Time every alternative once a round, after a round that does not count.

  Args:
    alternatives: Functions by name; their results are waited for.
    rounds: Number of rounds.
    clock: Returns seconds; None for the time on the wall.

  Returns:
    Seconds of every round, by name.
  """
  seconds: dict[Name, list[float]] = {name: [] for name in alternatives}
  names, clock = list(alternatives), clock or time.perf_counter
  for number in range(-1, rounds):
    # There and back, so that no alternative always follows the same one.
    for name in names if number % 2 else reversed(names):
      started = clock()
      jax.block_until_ready(alternatives[name]())
      if number >= 0:
        seconds[name].append(clock() - started)
  return seconds


def wait_until_idle(seconds: float = 30.0) -> None:
  """Wait until this process computes nothing: no saves, no decoding.

  Args:
    seconds: Longest time to wait.
  """
  deadline = time.perf_counter() + seconds
  while time.perf_counter() < deadline:
    before = time.process_time()
    time.sleep(0.1)
    if time.process_time() - before < 0.01:
      return


def spread(values: Sequence[float]) -> Spread:
  """Return the median and the quartiles of some numbers."""
  if len(values) == 1:
    return Spread(values[0], values[0], values[0])
  low, median, high = statistics.quantiles(values, n=4, method="inclusive")
  return Spread(median, low, high)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
  """Return the spread of the ratios of measurements of the same rounds."""
  pairs = zip(numerators, denominators, strict=True)
  return spread([numerator / denominator for numerator, denominator in pairs])
