"""Benchmarks measure what they say, on networks that take no time."""

import dataclasses
import math
import sys
import threading
import time

import jax
import numpy as np
import pytest

from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.training import build as recipe
from sam_jax.training import loop
from scripts.benchmark import (
  compilation,
  inputs,
  loops,
  m_cost,
  peers,
  programs,
  scaling,
  startup,
  steps,
)
from scripts.benchmark.workload import Workload
from tests import tiny

TINY = Workload(model="cnn4", dataset="digits", batch=4)


@pytest.fixture(autouse=True)
def small_programs(monkeypatch):
  monkeypatch.setattr(recipe, "create_model", tiny.create_model)
  monkeypatch.setattr(programs, "_SIDES", {"cpu": (32, 64)})


def test_step_is_compared_with_its_peers():
  cache = jax.config.jax_compilation_cache_dir
  sgd, sam, opaque, transparent = steps.measure_steps(TINY, rounds=1)
  assert sgd["over SGD"] == (1, 1, 1)
  assert sam["copies over SGD"] < 1.1
  assert transparent["state copies"] - sam["state copies"] == pytest.approx(
    1, abs=1e-3
  )
  # The numbers of independent implementations of the same step.
  assert 0 < opaque["update differs by"] < 1e-4
  assert 0 < transparent["update differs by"] < 1e-4
  numerics = [row["numerics"] for row in (sgd, sam, opaque, transparent)]
  assert numerics == [None, None, "same", "same"]
  assert jax.config.jax_compilation_cache_dir == cache


def first_update(of, calls=1):
  step = steps.compile_cold(TINY, of, calls)
  start = jax.device_get(step.state.params)
  step()
  return start, jax.device_get(step.state.params)


def test_two_calls_of_one_step_draw_the_same_masks():
  sam = dataclasses.replace(TINY.recipe(steps.RHO), model=tiny.Perceptron(0.5))
  peer = peers.with_optax_transparent(sam, steps.RHO)
  start, ours = first_update(sam)
  _, theirs = first_update(peer, calls=2)
  assert peers.update_difference(theirs, ours, start) < 1e-4


def test_different_results_are_told():
  def step(update):
    state = dataclasses.make_dataclass("State", ["params"])(np.zeros(3))

    def call(state, batch):
      return dataclasses.replace(state, params=np.full(3, update)), None

    return steps.Step(call, state, None, 0.0)

  def compare(opaque, transparent):
    sides = {
      "SGD": step(2.0),
      "SAM": step(1.0),
      "optax opaque": step(opaque),
      "optax transparent": step(transparent),
    }
    return steps._compare(sides, steps.tolerance("float32"))

  found = compare(1.00001, 1.5)
  assert found["optax opaque"]["numerics"] == "same"
  assert found["optax transparent"] == {
    "update differs by": pytest.approx(0.5),
    "numerics": "different",
  }
  for opaque in (1.001, math.nan):
    with pytest.raises(steps.DifferentResultsError, match="opaque"):
      compare(opaque, 1.0)


def test_cost_of_m():
  rows = m_cost.measure_m(TINY, [4, 2], rounds=2)
  assert [row["m"] * row["parts of a device's batch"] for row in rows] == [4, 4]
  assert rows[0]["over m = 4"] == (1, 1, 1)
  assert all(row["temporary copies"] > 0 for row in rows)


def test_compilation_is_timed_without_a_cache():
  sgd, sam = compilation.measure_compilation(TINY)
  assert sam["GFLOP"] == pytest.approx(2 * sgd["GFLOP"], rel=0.1)
  assert jax.config.jax_enable_compilation_cache


def test_scaling_counts_collectives():
  rows = scaling.measure_scaling(TINY, [1, 2])
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


def test_communication_is_read_from_the_program():
  def step(x, y):
    total, largest = jax.lax.psum((x, y), "i"), jax.lax.pmax(y, "i")
    return total, largest, jax.lax.all_gather(y, "i")

  mapped = jax.pmap(step, "i", devices=jax.devices()[:4])
  x, y = np.ones((4, 5, 3), np.float32), np.ones((4, 8), np.int16)
  lowered = mapped.lower(x, y)
  assert programs.collectives_traced(lowered) == 4
  found = programs.collectives(lowered.compile())
  assert found.bytes == (15 * 4 + 8 * 2) + 8 * 2 + 4 * 8 * 2
  assert 3 <= found.count <= 4  # XLA may split a sum of two types


def test_groups_of_one_device_do_not_communicate():
  groups = [[0], [1]]
  mapped = jax.pmap(
    lambda x: jax.lax.psum(x, "i", axis_index_groups=groups),
    "i",
    devices=jax.devices()[:2],
  )
  lowered = mapped.lower(np.ones((2, 3), np.float32))
  assert programs.collectives_traced(lowered) == 0
  assert programs.collectives(lowered.compile()) == (0, 0)


def test_peak_is_the_best_of_sizes_and_rounds():
  products = programs.matrix_products("float32")
  seconds = dict(zip(products, ([0.5, 1.0], [2.0, 4.0]), strict=True))
  assert programs.peak(products, seconds) == 2 * 64**3 / 2.0


class ReadAhead:
  """A source of batches with eight of them ready, and slow ones after."""

  spec = dataset_spec("digits")

  def train_batches(self, first_step):
    images = np.zeros((8, 8, 8, 1), np.uint8)
    for number in range(first_step, 100):
      time.sleep(0 if number < 8 else 0.01)
      yield {"image": images, "label": np.zeros(8, np.int32)}


def test_input_does_not_count_what_was_read_ahead():
  host, device = inputs.measure_source(
    "digits", ReadAhead(), batch=8, rounds=3, augmentations=["none"]
  )
  assert host["images/s"].high < 8 / 0.01
  assert device["part"] == "device, none"
  assert device["images/s"].median > 0


def slow_dataset(config):
  """Batches that take a tenth of a second each."""
  dataset = tiny.create_dataset(config)
  batches = dataset.train_batches

  def slow(first_step):
    for batch in batches(first_step):
      time.sleep(0.1)
      yield batch

  dataset.train_batches = slow
  return dataset


def test_loop_that_waits_for_data_loses(monkeypatch):
  monkeypatch.setattr(loop, "create_dataset", slow_dataset)
  monkeypatch.setattr(loops, "_LEAD", 3)
  config = tiny.create_config()
  (row,) = loops.measure_loop(config, steps=4, rounds=2)
  assert row["loop images/s"].high < 16 / 0.1
  assert row["loop over bare"].median < 0.8
  assert config == tiny.create_config()  # not changed


def test_bare_steps_wait_for_work_in_the_background():
  def work():
    until = time.perf_counter() + 0.4
    while time.perf_counter() < until:
      pass

  thread = threading.Thread(target=work)
  thread.start()
  loops.wait_until_idle()
  assert not thread.is_alive()


FAKE_TRAINING = """
import pathlib, runpy, sys, time
config, workdir = (argument.split("=", 1)[1] for argument in sys.argv[1:])
config = runpy.run_path(config)["get_config"]()
assert config.sam.m is None and config.sam.p == float("inf")
cache = pathlib.Path(config.compilation_cache_dir)
if not cache.exists():
  cache.mkdir()
  time.sleep(0.3)
print("step 1/8  train  loss" if config.seed else "no data", file=sys.stderr)
"""


def test_startup_is_warm_the_second_time():
  config = default_config()
  config.sam.p, config.seed = math.inf, 1
  program = (sys.executable, "-c", FAKE_TRAINING)
  cold, warm = startup.measure_startup(config, 1, program)
  assert (cold["start"], warm["start"]) == ("cold", "warm")
  seconds = "seconds to first step"
  assert 0 < warm[seconds].median < cold[seconds].median
  config.seed = 0
  with pytest.raises(startup.TrainingFailedError, match="no data"):
    startup.measure_startup(config, 1, program)
