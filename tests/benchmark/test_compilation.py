"""Compile time and communication of steps that are not run."""

import jax
import pytest

from sam_jax import target
from sam_jax.plan import chips, compiler
from scripts.benchmark import compilation
from scripts.benchmark.training_task import TrainingTask
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


def test_compilation_for_tpus_takes_their_forms_and_devices(monkeypatch):
  tpu, asked, lower = chips.parse_topology("v5e:2x2"), [], TASK.lower_step

  def devices_of(tpu):
    return jax.local_devices()[: tpu.num_devices]

  def lower_step(task, *arguments, devices):
    asked.append((target.platform(), len(devices)))
    return lower(*arguments, devices=devices)

  monkeypatch.setattr(compiler, "devices_of", devices_of)
  monkeypatch.setattr(TrainingTask, "lower_step", lower_step)
  rows = compilation.measure_compilation(TASK, tpu)
  assert [row["step"] for row in rows] == ["SGD", "SAM"]
  assert asked == [("tpu", 4)] * 2
