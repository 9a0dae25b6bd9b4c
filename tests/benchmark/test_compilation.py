"""Compile time and communication of steps that are not run."""

import jax
import pytest

from scripts.benchmark import compilation
from tests.benchmark.fakes import TASK


def test_compilation_is_timed_without_a_cache():
  sgd, sam = compilation.measure_compilation(TASK)
  assert sam["GFLOP"] == pytest.approx(2 * sgd["GFLOP"], rel=0.1)
  assert sam["kernels"] > sgd["kernels"] > 0
  assert jax.config.jax_enable_compilation_cache


def test_scaling_counts_collectives():
  rows = compilation.measure_scaling(TASK, [1, 2])
  alone, together = rows[:4], rows[4:]
  assert all(row["volume"] == row["combined"] == 0 for row in alone)
  assert all(row["collectives traced"] == 0 for row in alone)
  sgd, sam, opaque, shared = together
  # One all-reduce of a copy of the parameters, however SAM is written.
  for row in (sgd, sam, opaque):
    assert row["combined"] == 1 < row["collectives traced"]
    assert row["volume"] == pytest.approx(1, abs=0.02)
  # And one for the ascent gradient.
  assert shared["volume"] == pytest.approx(2, abs=0.02)
  assert shared["combined"] == 2
