"""The quickstart's comparison, and the benchmark of compilation."""

import json
import subprocess
import sys

import pytest
from processes import REPOSITORY, finish

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


def test_step_is_compiled_and_measured():
  done = run_script(
    "benchmark",
    "compile",
    *("--model=wrn10_1", "--dataset=digits", "--batch=2", "--json"),
  )
  assert done.returncode == 0, done.stderr
  rows = json.loads(done.stdout)
  ratio = rows["sam"]["gflops"] / rows["sgd"]["gflops"]
  assert ratio == pytest.approx(2, abs=0.1)
  assert rows["sam"]["compile_seconds"] > 0


@pytest.mark.parametrize(
  ("script", "arguments", "message"),
  [
    ("compare_runs", ["/no/run"], "holds no run"),
    ("benchmark", ["fast"], "name the sub-command"),
    ("benchmark", ["compile", "--model=wrn1"], "config.model.name"),
  ],
)
def test_bad_arguments_give_one_line(script, arguments, message):
  done = run_script(script, *arguments)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line
