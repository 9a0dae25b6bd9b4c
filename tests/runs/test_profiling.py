"""Traces contain the steps of their window, in whole and in resumed runs."""

import collections
import gzip
import json
import re

import jax
import jax.numpy as jnp
import pytest

from sam_jax.config.schema import ConfigError
from sam_jax.runs.profiling import Profiler


@jax.jit
def step_program(x):
  return x @ x / 100


def run(profiler, steps):
  """Run steps that a trace shows under their names."""
  x = jnp.ones((100, 100))
  with profiler:
    profiler.reach(steps[0], x)
    for step in steps:
      with jax.profiler.TraceAnnotation(f"step number {step}"):
        x = step_program(x)
      profiler.reach(step + 1, x)


def traced_steps(directory):
  """Return the steps in the only trace of a directory, and counts of ops."""
  (trace,) = directory.glob("*_0.trace.json.gz")
  assert len(list(directory.glob("*_0.xplane.pb"))) == 1
  with gzip.open(trace, "rt") as file:
    events = json.load(file)["traceEvents"]
  names = [event.get("name", "") for event in events]
  found = [re.fullmatch(r"step number (\d+)", name) for name in names]
  ops = [event.get("args", {}).get("hlo_op") for event in events]
  steps = sorted(int(match[1]) for match in found if match)
  return steps, collections.Counter(op for op in ops if op)


CASES = {
  "whole": (range(20), "steps_3-6", [3, 4, 5]),
  "resumed in the window": (range(5, 20), "steps_5-6", [5]),
  "stopped in the window": (range(5), "steps_3-5", [3, 4]),
}


@pytest.mark.parametrize("case", CASES)
def test_trace_contains_the_steps_of_the_window(case, tmp_path):
  steps, name, expected = CASES[case]
  step_program(jnp.ones((100, 100)))  # compiled before
  run(Profiler("3:6", 20, tmp_path), steps)
  (directory,) = (tmp_path / "plugins/profile").iterdir()
  assert directory.name == name
  traced, ops = traced_steps(directory)
  assert traced == expected
  assert set(ops.values()) == {
    len(expected)
  }  # steps completed, not only started


@pytest.mark.parametrize(("window", "steps"), [("", 9), ("3:6", range(6, 9))])
def test_no_trace_without_or_after_a_window(window, steps, tmp_path):
  run(Profiler(window, 9, tmp_path), range(9) if steps == 9 else steps)
  assert not list(tmp_path.iterdir())


def test_an_error_ends_the_trace(tmp_path):
  profiler = Profiler("0:9", 9, tmp_path)
  with pytest.raises(KeyboardInterrupt), profiler:
    profiler.reach(0, 0)
    raise KeyboardInterrupt
  run(Profiler("0:2", 9, tmp_path), range(9))  # another one can start


@pytest.mark.parametrize("window", ["3", "a:b", "6:6", "7:6", "3:21", "-1:2"])
def test_wrong_windows_give_one_line(window, tmp_path):
  message = f"config.profile = '{window}' must be START:STOP.* 20, the steps"
  with pytest.raises(ConfigError, match=message):
    Profiler(window, 20, tmp_path)
