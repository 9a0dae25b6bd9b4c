"""The quickstart's comparison, and the benchmark of compilation."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import QUICK_COMPILATION, REPOSITORY, finish

from sam_jax.benchmarks import programs

SMALL = (
  "--config=configs/digits.py:sam",
  "--config.model.name=wrn10_1",
  "--config.num_epochs=1",
  "--config.sam.m=128",
)


def run_script(name, *arguments):
  return subprocess.run(
    [sys.executable, f"scripts/{name}.py", *map(str, arguments)],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": QUICK_COMPILATION},
  )


def test_runs_are_compared(start, tmp_path):
  code, said = finish(start(*SMALL))
  assert code == 0, said
  done = run_script("compare_runs", tmp_path / "run", "--m=128")
  assert done.returncode == 0, done.stderr
  header, _, row = done.stdout.splitlines()[:3]
  assert "test error" in header
  assert row.startswith("| run")
  error = json.loads((tmp_path / "run/result.json").read_text())["error_rate"]
  assert f"{error:.1%}" in row
  assert (tmp_path / "curves.png").stat().st_size > 10_000


def benchmark(*arguments):
  done = run_script("benchmark", *arguments, "--json")
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)["rows"]


def test_step_is_compared_with_its_peers():
  sgd, sam, opaque, transparent = benchmark(
    *("step", "--model=cnn5", "--dataset=digits", "--batch=2"),
    "--rounds=1",
  )
  assert sgd["over SGD"] == [1, 1, 1]
  assert sam["copies over SGD"] < 1.1
  assert transparent["state copies"] - sam["state copies"] == pytest.approx(
    1, abs=1e-3
  )
  # The numbers of independent implementations of the same step.
  assert 0 < opaque["update differs by"] < 1e-4
  assert 0 < transparent["update differs by"] < 1e-4


def test_communication_is_read_from_the_program():
  def step(x, y):
    total, largest = jax.lax.psum((x, y), "i"), jax.lax.pmax(y, "i")
    return total, largest, jax.lax.all_gather(y, "i")

  mapped = jax.pmap(step, "i", devices=jax.devices()[:4])
  x, y = np.ones((4, 5, 3), np.float32), np.ones((4, 8), np.int16)
  found = programs.collectives(mapped.lower(x, y).compile())
  assert found.bytes == (15 * 4 + 8 * 2) + 8 * 2 + 4 * 8 * 2
  assert 3 <= found.count <= 4  # XLA may split a sum of two types


@pytest.mark.parametrize(
  ("script", "arguments", "message"),
  [
    ("compare_runs", ["/no/run"], "holds no run"),
    ("benchmark", ["fast"], "'fast' is no sub-command; known: step, m, input"),
    ("benchmark", ["compile", "--model=wrn1"], "config.model.name"),
    ("benchmark", ["step", "--batch=0"], "--batch=0"),
  ],
)
def test_bad_arguments_give_one_line(script, arguments, message):
  done = run_script(script, *arguments)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line
