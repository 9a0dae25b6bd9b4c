"""Means over random vectors, with their standard errors.

Vectors are drawn by NumPy, from a seed and a number: they depend neither on the
devices nor on the version of JAX, and networks of one architecture get the same
ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Seed = int | Sequence[int]


class Estimate(NamedTuple):
  """A measured number.

  Attributes:
    value: The number.
    standard_error: Standard error of a mean over draws; None if the number is
      exact, up to rounding, or if there was one draw only.
  """

  value: float
  standard_error: float | None = None


def mean_of_draws(
  draw: Callable[[int], float],
  count: int,
  on_draw: Callable[[int], Any] = lambda done: None,
) -> Estimate:
  """Average independent draws.

  Args:
    draw: Number of a draw, from 0 -> its result.
    count: Number of draws.
    on_draw: Called with 1 after each draw.

  Raises:
    ValueError: `count` < 1.
  """
  if count < 1:
    raise ValueError(f"draws = {count} must be at least 1.")
  results = []
  for number in range(count):
    results.append(draw(number))
    on_draw(1)
  mean = float(np.mean(results))
  if count == 1:
    return Estimate(mean)
  return Estimate(mean, float(np.std(results, ddof=1) / np.sqrt(count)))


def normal_like(params: Any, seed: Seed) -> Any:
  """Draw standard normal numbers, a float32 NumPy tree like `params`."""
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda w: random.standard_normal(np.shape(w), np.float32), params
  )


def signs_like(params: Any, seed: Seed) -> Any:
  """Draw 1 or -1, each with probability 1/2, a float32 tree like `params`."""
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda w: np.float32(2) * random.integers(2, size=np.shape(w)) - 1, params
  )
