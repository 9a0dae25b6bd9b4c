"""The command line of the benchmarks."""

import contextlib
import json
import os
import runpy
import sys

import jax
import pytest

from scripts.benchmark import loops, startup, steps
from scripts.benchmark.timing import Spread
from tests.in_process import own_flags
from tests.processes import REPOSITORY


def benchmark(*arguments):
  """Runs scripts/benchmark/__main__.py in this process, with its own flags."""
  argv = ["benchmark", *arguments]
  with (
    own_flags(),
    pytest.MonkeyPatch.context() as patch,
    contextlib.chdir(REPOSITORY),
  ):
    patch.setattr(sys, "argv", argv)
    patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # restored afterwards
    script = runpy.run_path("scripts/benchmark/__main__.py")
    script["main"](script["parse_flags"](argv))


ROWS = [{"step": "SAM", "over SGD": Spread(1.8, 1.75, 1.9), "differs": None}]


def test_json_says_what_was_measured(monkeypatch, capsys):
  monkeypatch.setattr(steps, "measure_steps", lambda workload, rounds: ROWS)
  arguments = ("step", "--model=cnn4", "--batch=4", "--devices=2")
  benchmark(*arguments, "--json")
  found = json.loads(capsys.readouterr().out)
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
    "jax": jax.__version__,
  }
  assert found["what"].items() >= expected.items()
  benchmark(*arguments)
  caption, _, _, header, _, row = capsys.readouterr().out.splitlines()
  assert "model cnn4, dataset cifar10, batch 4, dtype float32" in caption
  assert header == "| step | over SGD | differs |"
  assert row == "| SAM | 1.8 (1.75 to 1.9) |  |"


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
  benchmark("loop", "--config.sam.m=None", "--json")
  assert json.loads(capsys.readouterr().out)["what"]["m"] == 128 // 8


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
    (["loop", "--config=/no/such.py"], "No such file"),
    (["loop", "--config=configs/digits.py:foo"], "Unknown variant 'foo'"),
    (["loop", "--config.seed=None"], "--config.seed=None must be an integer"),
    (["loop", "--model=wrn28_10"], "`loop` does not use --model; it uses"),
    (["step", "--config.seed=1"], "`step` does not use --config; it uses"),
    (["scale", "--rounds=3"], "`scale` does not use --rounds"),
    (["step", "--m=4"], "`step` does not use --m"),
  ],
)
def test_bad_arguments_give_one_line(arguments, message, capsys):
  with pytest.raises(SystemExit) as refused:
    benchmark(*arguments)
  assert refused.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line
