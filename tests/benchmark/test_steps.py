"""Steps are compared with their peers, in time, memory and numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import struct

from scripts.benchmark import optax_sam, steps
from scripts.benchmark.training_task import RHO
from tests import tiny
from tests.benchmark.fakes import TASK


@pytest.mark.long  # compiles ten steps
def test_step_is_compared_with_its_peers():
  cache = jax.config.jax_compilation_cache_dir
  rows = steps.measure_steps(TASK, rounds=1)
  sgd, sam, opaque, transparent, bare = rows
  assert sgd["over SGD"] == (1, 1, 1)
  assert sam["copies over SGD"] < 1.1
  assert transparent["state copies"] - sam["state copies"] == pytest.approx(
    1, abs=1e-3
  )
  # The numbers of independent implementations of the same step.
  assert 0 < opaque["update differs by"] < 1e-4
  assert 0 < transparent["update differs by"] < 1e-4
  assert 0 < bare["update differs by"] < 1e-4
  numerics = [row["numerics"] for row in rows]
  assert numerics == [None, "same", "same", "same", "same"]
  assert 0 < sam["update differs by"] < 1e-4
  assert jax.config.jax_compilation_cache_dir == cache


def first_update(parts, calls=1):
  step = steps.compile_cold(TASK, steps.Alternative(parts, calls))
  start = jax.device_get(step.state.params)
  step()
  return start, jax.device_get(step.state.params)


def test_two_calls_of_one_step_draw_the_same_masks():
  sam = dataclasses.replace(TASK.parts(RHO), model=tiny.Perceptron(0.5))
  start, ours = first_update(sam)
  transparent = optax_sam.with_optax_transparent(sam, RHO)
  _, theirs = first_update(transparent, calls=2)
  assert optax_sam.update_difference(theirs, ours, start) < 1e-4


@struct.dataclass
class State:
  """Hold what a step changes."""

  params: jax.Array


def test_different_results_are_reported():
  def step(update, sensitivity=0.0):
    def call(state, batch):
      # A nonlinear step amplifies the last bits of the weights.
      params = state.params + update + sensitivity * (state.params != 1)
      return state.replace(params=params), None

    return steps.CompiledStep(call, State(jnp.ones(3)), None, 0.0)

  def compare(opaque, transparent, sensitivity=0.0):
    sides = {
      "SGD": step(2.0),
      "SAM": step(1.0, sensitivity),
      "optax opaque": step(opaque),
      "optax transparent": step(transparent),
    }
    return steps.compare_updates(sides, steps.tolerance("float32"))

  found = compare(1.00001, 1.5)
  assert found["optax opaque"]["numerics"] == "same"
  assert found["optax transparent"] == {
    "update differs by": pytest.approx(0.5),
    "numerics": "different",
  }
  for opaque in (1.001, math.nan):
    with pytest.raises(steps.DifferentResultsError, match="opaque"):
      compare(opaque, 1.0)
  found = compare(1.001, 1.5, sensitivity=0.01)
  assert found["SAM"]["update differs by"] == pytest.approx(0.01)
  assert found["optax opaque"]["numerics"] == "same"
  assert found["optax transparent"]["numerics"] == "different"


def test_cost_of_m():
  rows = steps.measure_m(TASK, [4, 2], rounds=2)
  assert [row["m"] * row["microbatches"] for row in rows] == [4, 4]
  assert rows[0]["over m = 4"] == (1, 1, 1)
  assert all(row["temporary copies"] > 0 for row in rows)
