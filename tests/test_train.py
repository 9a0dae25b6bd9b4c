"""`python -m sam_jax.train` as a user runs it: real processes, real signals."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import REPOSITORY, finish, read_metrics, wait_for_step

from sam_jax.training import workdir
from sam_jax.training.config import default_config

SMALL = (
  "--config=configs/digits.py:sam",
  "--config.model.name=wrn10_1",
  "--config.sam.m=128",
  "--config.num_epochs=4",
  "--config.log_every_steps=3",
  "--config.checkpoint_every_epochs=0.4",
  "--config.eval_on_train=True",
  "--config.ema.decay=0.9",
  "--config.ema.warmup_steps=5",
  "--config.augment.policy=basic",
)
STEPS = 4 * 11


def final_checksum(path):
  """The checksum of every bit of the state after the last step."""
  directory = path / "checkpoints" / str(STEPS) / "checksum"
  (file,) = [f for f in directory.iterdir() if "metadata" in f.name]
  return json.loads(file.read_text())["crc32"]


def test_killed_run_ends_as_an_undisturbed_one(start, tmp_path):
  undisturbed = start(*SMALL, workdir="undisturbed")
  code, said = finish(undisturbed)
  assert code == 0, said

  step = random.randrange(3, STEPS - 6)
  killed = start(*SMALL, workdir="killed")
  wait_for_step(tmp_path / "killed", step)
  killed.send_signal(signal.SIGKILL)
  finish(killed)
  stopped = start(*SMALL, workdir="killed")
  wait_for_step(tmp_path / "killed", min(step + 6, STEPS))
  stopped.send_signal(signal.SIGTERM)
  code, said = finish(stopped)
  assert code == 0, said
  code, said = finish(start(*SMALL, workdir="killed"))
  assert code == 0, said

  checksums = [
    final_checksum(tmp_path / name) for name in ("undisturbed", "killed")
  ]
  assert checksums[0] == checksums[1], f"killed at {step}"
  metrics = [read_metrics(tmp_path / n) for n in ("undisturbed", "killed")]
  assert metrics[0] == metrics[1]
  check_outputs(tmp_path / "undisturbed", metrics[0])

  result = (tmp_path / "killed/result.json").read_text()
  (tmp_path / "killed/result.json").unlink()  # as if killed just before it
  code, said = finish(start(*SMALL, workdir="killed"))
  assert code == 0
  assert "finished" in said
  assert (tmp_path / "killed/result.json").read_text() == result


def check_outputs(path, metrics):
  """What a run leaves behind."""
  tags = {tag for line in metrics for tag in line}
  assert {"train/loss", "train/sharpness", "test/error_rate"} <= tags
  assert {"clean_train/error_rate", "test/top_5_error_rate"} <= tags
  result = json.loads((path / "result.json").read_text())
  last = [line for line in metrics if "test/error_rate" in line][-1]
  assert result["error_rate"] == last["test/error_rate"]
  assert result["step"] == last["step"] == STEPS
  config = json.loads((path / "config.json").read_text())
  assert config["model"]["name"] == "wrn10_1"


def test_sigterm_saves_and_says_how_to_go_on(start, tmp_path):
  process = start(*SMALL, "--config.num_epochs=1000")
  wait_for_step(tmp_path / "run", 3)
  process.send_signal(signal.SIGTERM)
  code, said = finish(process)
  assert code == 0
  assert "the same command goes on from here" in said
  steps = [int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()]
  assert f"Stopped at step {max(steps)} of" in said


def test_divergence_is_named_and_leaves_the_checkpoint_before_it(
  start, tmp_path
):
  """Decay of 20 times the weights makes them grow 19-fold in every step."""
  process = start(
    *SMALL,
    "--config.optimizer.learning_rate=1",
    "--config.optimizer.schedule=constant",
    "--config.optimizer.momentum=0",
    "--config.optimizer.weight_decay=20",
    "--config.optimizer.gradient_clipping=0",
  )
  code, said = finish(process)
  assert code == 1
  assert "Traceback" not in said
  (line,) = [s for s in said.splitlines() if s.startswith("error: ")]
  assert "learning rate 1, config.sam.rho = 0.5" in line
  numbers = r"since step (\d+) \(noticed at (\d+)\).*checkpoint: step (\d+)\."
  since, noticed, kept = map(int, re.search(numbers, line).groups())
  assert kept == 4 <= since < noticed <= 8  # steps 4, 8, ... are saved

  (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
  assert checkpoint.name == "4"
  state = ocp.StandardCheckpointer().restore(checkpoint / "state")
  assert state["step"] == 4
  for array in jax.tree.leaves([state["params"], state["opt_state"]]):
    assert np.isfinite(array).all()


BAD_COMMANDS = {
  "field": (["--config.sam.roh=0.1"], "Did you mean --config.sam.rho?"),
  "file": (["--config=configs/digit.py"], "configs/digit.py"),
  "flag": (["--wrokdir=x"], "wrokdir"),
  "argument": (["rho=0.1"], "rho=0.1"),
  "value": (["--config.sam.rho=-1"], "config.sam.rho = -1.0 must be >= 0"),
  "batch": (["--config.batch_size=100"], "does not divide by the 8 devices"),
  "m": (["--config.sam.m=7"], "can be 1, 2, 4, 8, 16, 32, 64, 128"),
  "dataset": (["--config.dataset.name=cifar10"], "sam_jax.datasets.prepare"),
  "workdir": (["--workdir=/proc/none"], "--workdir=/proc/none can't be"),
  "profile": (["--config.profile=9:3"], "config.profile = '9:3' must be START"),
  "in use": (["--workdir=USED"], f"in use by process {os.getpid()} on "),
}


@pytest.fixture
def used_workdir(tmp_path):
  """A workdir that this process has claimed."""
  with workdir.claim(tmp_path / "used", default_config()) as path:
    yield path


def test_bad_commands_give_one_line_and_exit_code_2(start, used_workdir):
  """All at once: most of their time is the start of Python."""
  running = {}
  for name, (flags, _) in BAD_COMMANDS.items():
    flags = [flag.replace("USED", str(used_workdir)) for flag in flags]
    running[name] = start(
      "--config=configs/digits.py:sam", *flags, devices=8, workdir=name
    )
  for name, process in running.items():
    code, said = finish(process)
    assert code == 2, (name, said)
    (line,) = [s for s in said.splitlines() if s.startswith("error: ")]
    assert BAD_COMMANDS[name][1] in line, name
    assert "Traceback" not in said, name


def test_import_needs_no_tensorflow():
  code = (
    "import sys, sam_jax, sam_jax.training.loop;"
    "assert 'tensorflow' not in sys.modules;"
    "assert 'tensorflow_datasets' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
