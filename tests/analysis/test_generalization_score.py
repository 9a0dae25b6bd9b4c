"""The score against a literal reading of its definition."""

import itertools
import math

import numpy as np
import pytest

from sam_jax.analysis.generalization_score import (
  generalization_score,
  kendall,
  rank_correlation,
  rank_correlations,
)


def entropy(counts):
  total = sum(counts)
  return -sum(c / total * math.log2(c / total) for c in counts if c)


def literal_score(hyperparameters, measure, gap):
  """The definition, with a table of counts for every cell."""
  scores = []
  for one, other in itertools.permutations(hyperparameters, 2):
    tables = {}
    for i, j in itertools.product(range(len(gap)), repeat=2):
      cell = tuple(hyperparameters[h][k] for h in (one, other) for k in (i, j))
      table = tables.setdefault(cell, np.zeros((2, 2)))
      table[int(gap[i] > gap[j]), int(measure[i] > measure[j])] += 1
    information = [
      entropy(t.sum(1)) + entropy(t.sum(0)) - entropy(t.ravel())
      for t in tables.values()
    ]
    entropies = [entropy(t.sum(1)) for t in tables.values()]
    scores.append(np.mean(information) / np.mean(entropies))
  return min(scores)


GRID = list(itertools.product((0, 1, 2), ("a", "b"), (0.1, 0.2), range(3)))
HYPERPARAMETERS = {
  "depth": [g[0] for g in GRID],
  "kind": [g[1] for g in GRID],
  "rate": [g[2] for g in GRID],
}


@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
def test_score_is_that_of_the_definition(noise):
  random = np.random.default_rng(0)
  gap = random.normal(size=len(GRID)).round(1)  # with ties
  measure = gap + noise * random.normal(size=len(GRID))
  score = generalization_score(HYPERPARAMETERS, measure, gap)
  assert score == pytest.approx(literal_score(HYPERPARAMETERS, measure, gap))


def test_a_perfect_measure_and_a_constant_one():
  gap = np.random.default_rng(0).normal(size=len(GRID))
  # All gaps differ: the two orders of a pair have opposite signs.
  assert generalization_score(HYPERPARAMETERS, np.exp(gap), gap) == 1
  assert generalization_score(HYPERPARAMETERS, 0 * gap, gap) == 0


def test_the_score_is_blind_to_the_sign_and_the_rank_correlation_is_not():
  gap = np.random.default_rng(0).permutation(len(GRID))  # no ties
  # It is below 1: a network is not above itself with either sign.
  assert generalization_score(HYPERPARAMETERS, -gap, gap) > 0.85
  assert [kendall(sign * gap, gap) for sign in (1, -1)] == [1, -1]


def test_rank_correlation_of_each_hyperparameter():
  """A measure that is right about the first, and wrong about the second."""
  grid = list(itertools.product((0, 1, 2), (0, 10, 20)))
  gap = [a + b for a, b in grid]
  measure = [a - b for a, b in grid]
  columns = {"a": [a for a, _ in grid], "b": [b for _, b in grid]}
  found = rank_correlations(columns, measure, gap)
  assert found == {"a": pytest.approx(1), "b": pytest.approx(-1)}


def test_interval_of_the_rank_correlation_covers_the_true_one():
  """Normal pairs of correlation r have tau = 2 / pi * arcsin(r)."""
  random = np.random.default_rng(0)
  true = 2 / np.pi * np.arcsin(0.6)
  found = []
  for _ in range(100):
    x, noise = random.normal(size=(2, 16))
    found.append(rank_correlation(x, 0.6 * x + 0.8 * noise))
  covered = np.mean([each.low <= true <= each.high for each in found])
  assert 0.88 < covered < 1
  assert np.mean([each.high - each.low for each in found]) < 0.8


def test_rank_correlation_of_few_networks():
  """Four can be ordered in 24 ways, two of which have this tau or -1."""
  perfect = rank_correlation([1, 2, 3, 4], [2, 3, 5, 9])
  assert perfect.tau == pytest.approx(1)
  assert perfect.p_value == pytest.approx(2 / 24)
  assert math.isnan(perfect.low)  # nothing disagrees
  assert math.isnan(rank_correlation([1, 2, 3], [1, 3, 2]).low)
  one = rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
  assert one.tau == pytest.approx(0.8)
  assert -1 <= one.low < one.tau < one.high <= 1
  assert math.isnan(rank_correlation([1], [1]).tau)
  assert math.isnan(rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).tau)


def test_a_grid_with_a_hole_is_refused():
  incomplete = {"depth": [0, 0, 1], "kind": ["a", "b", "a"]}
  with pytest.raises(ValueError, match="depth and kind"):
    generalization_score(incomplete, [1, 2, 3], [1, 2, 3])
  with pytest.raises(ValueError, match="two hyperparameters"):
    generalization_score({"depth": [0, 1]}, [1, 2], [1, 2])
