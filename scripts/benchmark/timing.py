"""Times alternatives side by side, so that a busy machine slows all alike."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Spread(NamedTuple):
  """Median and quartiles of repeated measurements."""

  median: float
  low: float
  high: float


def interleave(
  runs: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Times every run once a round, after a round that does not count.

  Args:
    runs: Functions by name; what one returns is waited for.
    rounds: How often to time each.

  Returns:
    Seconds of every round, by name.
  """
  seconds = {name: [] for name in runs}
  names = list(runs)
  for number in range(-1, rounds):
    # There and back, so that no run always follows the same one.
    for name in names if number % 2 else reversed(names):
      started = time.perf_counter()
      jax.block_until_ready(runs[name]())
      if number >= 0:
        seconds[name].append(time.perf_counter() - started)
  return seconds


def spread(values: list[float]) -> Spread:
  """Median and quartiles of some numbers."""
  if len(values) == 1:
    return Spread(values[0], values[0], values[0])
  low, median, high = statistics.quantiles(values, n=4, method="inclusive")
  return Spread(median, low, high)


def ratio(numerators: list[float], denominators: list[float]) -> Spread:
  """Spread of the ratios of measurements of the same rounds."""
  pairs = zip(numerators, denominators, strict=True)
  return spread([numerator / denominator for numerator, denominator in pairs])
