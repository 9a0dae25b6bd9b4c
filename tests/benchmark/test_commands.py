"""The command line of the benchmarks."""

import datetime
import json
import os
import sys

import jax
import pytest

from sam_jax.plan import compiler
from scripts.benchmark import compilation, loops, report, startup, steps
from scripts.benchmark.timing import Spread
from tests.in_process import run_module


@pytest.fixture(autouse=True)
def eight_devices(monkeypatch):
  """Start JAX before a command sets XLA_FLAGS, and restore them."""
  monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
  monkeypatch.setattr(compiler, "_ENVIRONMENT", {})
  assert jax.local_device_count() == 8


def benchmark(*arguments):
  """Run `python -m scripts.benchmark` in this process."""
  run_module("scripts.benchmark", *arguments)


ROWS = [{"step": "SAM", "over SGD": Spread(1.8, 1.75, 1.9), "differs": None}]


def test_json_and_table_show_the_measurement(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(steps, "measure_steps", lambda task, rounds: ROWS)
  arguments = ("step", "--model=cnn4", "--batch=4", "--devices=2")
  file = tmp_path / "numbers/step.json"
  benchmark(*arguments, f"--json={file}")
  found = json.loads(file.read_text())
  spread = {"median": 1.8, "low": 1.75, "high": 1.9}
  assert found["rows"] == [{"step": "SAM", "over SGD": spread, "differs": None}]
  expected = {
    "benchmark": "step",
    "model": "cnn4",
    "dataset": "cifar10",
    "batch": 4,
    "dtype": "float32",
    "m": 4,
    "devices": 2,
    "rounds": 5,
    "device": "cpu",
  }
  assert found["facts"].items() >= expected.items()
  made = found["made"]
  words = "step --model=cnn4 --batch=4 --devices=2"
  assert made["command"] == f"python -m scripts.benchmark {words}"
  assert made["versions"]["jax"] == jax.__version__
  assert made["cores"] == len(os.sched_getaffinity(0))
  assert datetime.date.fromisoformat(made["date"])
  caption, machine, _, _, *table = capsys.readouterr().out.splitlines()
  assert f"jax {jax.__version__}" in machine and made["date"] in machine
  assert "model cnn4, dataset cifar10, batch 4, dtype float32" in caption
  assert table == [
    "| step |            over SGD | differs |",
    "| ---- | ------------------: | ------: |",
    "| SAM  | 1.80 (1.75 to 1.90) |         |",
  ]


def test_rows_of_other_columns_start_another_table():
  rows = [{"a": "x", "b": 1234.5}, {"a": "y", "b": 0.12345}, {"c": 2}]
  assert report.tables(rows) == [
    "| a   |     b |",
    "| --- | ----: |",
    "| x   | 1,234 |",
    "| y   |  0.12 |",
    "",
    "| c   |",
    "| --- |",
    "| 2   |",
  ]


@pytest.mark.parametrize(
  "arguments",
  [
    ["startup"],
    ["startup", "--config", "configs/digits.py:sam"],
    ["--config=configs/digits.py", "startup", "--config.sam.m=32"],
  ],
)
def test_config_is_what_the_flags_say(arguments, monkeypatch, capsys):
  measured = []

  def measure(config, rounds):
    measured.append(config)
    return ROWS

  monkeypatch.setattr(startup, "measure_startup", measure)
  benchmark(*arguments, "--config.seed=7", "--config.pretrained=None")
  assert (measured[0].model.name, measured[0].sam.m) == ("wrn10_2", 32)
  assert (measured[0].seed, measured[0].pretrained) == (7, None)
  assert "model wrn10_2, dataset digits, batch 16" in capsys.readouterr().out


def test_none_unsets_the_default_configs_m(monkeypatch, capsys):
  monkeypatch.setattr(loops, "measure_loop", lambda config, *_: ROWS)
  benchmark("loop", "--config.sam.m=None")
  assert f"m {128 // 8}, devices 8" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["fast"], "'fast' is no sub-command; known: step, m, input"),
    (["step", "m"], "'step m' is no sub-command"),
    (["compile", "--model=wrn1"], "config.model.name"),
    (["step", "--batch=0"], "--batch=0"),
    (["step", "--devices=99"], "--devices=99, but this host has 8"),
    (["loop", "--devices=2"], "--devices=2, but this host has 8"),
    (["m", "--m="], "--m= must be numbers"),
    (["m", "--m=8,four"], "--m=8,four must be numbers"),
    (["m", "--m=3"], "m = 3 does not fit"),
    (["loop", "--config.model.nme=x"], "Did you mean --config.model.name?"),
    (["loop", "--config=/no/such.py"], "there is no such file"),
    (["loop", "--config=configs/digits.py:foo"], "Unknown variant 'foo'"),
    (["loop", "--config.seed=None"], "--config.seed=None must be an integer"),
    (["loop", "--model=wrn28_10"], "`loop` does not use --model; it uses"),
    (["step", "--config.seed=1"], "`step` does not use --config; it uses"),
    (["scale", "--rounds=3"], "`scale` does not use --rounds"),
    (["step", "--m=4"], "`step` does not use --m"),
    (["step", "--topology=v5e:2x2"], "`step` does not use --topology"),
    (["compile", "--topology=v5:2x2"], "'v5' is no chip"),
    (["compile", "--topology=v5e:2x2", "--devices=4"], "has its own devices"),
    (["step", "--json=/dev/null/a"], "--json: /dev/null can't be written"),
  ],
)
def test_bad_arguments_give_one_line(arguments, message, capsys):
  with pytest.raises(SystemExit) as refused:
    benchmark(*arguments)
  assert refused.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line


def test_failures_of_libtpu_are_one_line(monkeypatch, capsys):
  def fail(task, tpu):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G of 15G\nDump:")

  monkeypatch.setattr(compiler, "libtpu_version", lambda: "0.0.1")
  monkeypatch.setattr(compilation, "measure_compilation", fail)
  with pytest.raises(SystemExit) as failed:
    benchmark("compile", "--model=cnn4", "--topology=v5e:2x2")
  assert failed.value.code == "error: cnn4: RESOURCE_EXHAUSTED: 20G of 15G"


@pytest.mark.parametrize(
  ("name", "needs"),
  [("torch", "PyTorch"), ("pyhessian", "PyTorch and PyHessian")],
)
def test_comparisons_with_pytorch_need_it(name, needs, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "torch", None)
  monkeypatch.setitem(sys.modules, "pyhessian", None)
  with pytest.raises(SystemExit, match="2"):
    benchmark(name, "--model=wrn10_1")
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith(f"error: `{name}` needs {needs} (")
  assert line.endswith(
    f"): pip install torch{' pyhessian' * (name != 'torch')}."
  )
