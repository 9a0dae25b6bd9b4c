"""`python -m scripts.kill_runs` on a program that takes no time to start."""

import re
import sys

import pytest

from sam_jax.config import cli
from sam_jax.training import build, input_pipeline
from scripts.kill_runs import data, kinds, runs
from tests.in_process import run_module

# Writes a line of metrics.jsonl in each of 5 steps, then its result: the number
# of lines, or the number of its starts.
PROGRAM = """
import pathlib, sys, time
(workdir,) = [a[10:] for a in sys.argv if a.startswith("--workdir=")]
workdir = pathlib.Path(workdir)
(workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
with (workdir / "started.log").open("a") as file:
  file.write("x")
metrics = workdir / "metrics.jsonl"
for step in range(5):
  (workdir / "checkpoints" / f"of step {step}").touch()
  time.sleep(0.05)
metrics.write_text('{"step": 5}')
"""
HONEST = PROGRAM + '(workdir / "result.json").write_text("5")'
FORGETFUL = (
  PROGRAM
  + """
(workdir / "result.json").write_text((workdir / "started.log").read_text())
"""
)
FRAGILE = (
  """
import pathlib, sys
(workdir,) = [a[10:] for a in sys.argv if a.startswith("--workdir=")]
partial = pathlib.Path(workdir + ".partial")
if partial.exists():
  sys.exit("error: half a result")
partial.touch()
"""
  + HONEST
  + """
partial.unlink()
"""
)


def kill_runs(monkeypatch, program, *flags):
  """Run the command; kinds train by that program."""
  monkeypatch.setattr(runs, "TRAIN", (sys.executable, "-c", program))
  run_module("scripts.kill_runs", *flags)


def test_runs_that_resume_are_identical(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  kill_runs(monkeypatch, HONEST, "--kinds=plain,processes", "--kills=7")
  said = capsys.readouterr()
  cells = [re.split(r" *\| *", line) for line in said.out.splitlines()]
  rows = {c[1]: c for c in cells}
  for name, kills in (("plain", 4), ("processes", 3)):
    _, _, count, found, starts, identical, *_ = rows[name]
    assert (found, identical) == (str(kills), "yes")
    assert kills <= int(starts) <= kills + int(count)
  assert len(re.findall(r"  at [\d.]+ s, last written: ", said.err)) == 7
  assert list(tmp_path.iterdir()) == []


def test_differences_are_named(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  with pytest.raises(SystemExit) as error:
    kill_runs(monkeypatch, FORGETFUL, "--kinds=devices", "--kills=2")
  assert error.value.code == 1
  said = capsys.readouterr()
  (row,) = [x for x in said.out.splitlines() if x.startswith("| devices ")]
  assert re.search(r"\| +2 \| .* no +\| at [\d.]+ s", row)
  assert "result.json: missing ['x'], in addition ['xx" in said.err
  (kept,) = tmp_path.iterdir()
  assert f"The runs that differ are in {kept}." in said.out
  assert (kept / "devices_1/result.json").exists()


def test_runs_that_fail_are_named(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  with pytest.raises(SystemExit) as error:
    kill_runs(monkeypatch, FRAGILE, "--kinds=plain", "--kills=1")
  assert error.value.code == 1
  said = capsys.readouterr()
  assert "exit codes [1], error: half a result" in said.err
  with pytest.raises(SystemExit) as error:
    kill_runs(monkeypatch, "import sys; sys.exit('error: no data')")
  message = "error: plain, undisturbed: exit codes [1], error: no data (see "
  assert error.value.code.startswith(message)


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--kinds=plan", "--kinds=plan is unknown. Known: plain, "),
    ("--kills=0", "kills"),
    ("again", "Unexpected arguments: again"),
  ],
)
def test_mistakes_give_one_line(flag, message, capsys):
  with pytest.raises(SystemExit) as error:
    run_module("scripts.kill_runs", flag)
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ") and message in line


def test_kinds_have_data_and_valid_configs(tmp_path):
  for kind in kinds.KINDS.values():
    if kind.dataset != "digits" and not (tmp_path / kind.dataset).exists():
      data.write(kind.dataset, str(tmp_path))
    config = cli.read_config(kind.arguments)
    config.dataset.data_dir = str(tmp_path)
    config = build.validate(config, kind.devices * kind.processes)
    assert input_pipeline.create_dataset(config).steps_per_epoch in (5, 6)
