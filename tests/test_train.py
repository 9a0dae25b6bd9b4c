"""`python -m sam_jax.train` as a user runs it: real processes, real signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent import futures

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sam_jax.config.schema import ConfigError, default_config
from sam_jax.runs import preemption, signals, watchdog, workdir
from sam_jax.training import loop
from scripts.kill_runs.outcome import differences, outcome
from tests.processes import REPOSITORY, finish, read_metrics, wait_for_step

# 11 steps an epoch.
SMALL = (
  "--config=configs/digits.py:sam",
  "--config.model.name=tests.tiny:ConvNet",
  "--config.batch_size=32",
  "--config.dataset.validation_size=1090",
  "--config.sam.m=16",
  "--config.model.dropout_rate=0.1",
  "--config.num_epochs=4",
  "--config.log_every_steps=3",
  "--config.checkpoint_every_epochs=0.4",
  "--config.eval_on_train=True",
  "--config.ema.decay=0.9",
  "--config.ema.warmup_steps=5",
  "--config.augment.policy=basic",
  "--config.augment.mixup_alpha=1.0",
)
STEPS = 4 * 11  # takes long enough to be killed


@pytest.mark.long
def test_killed_run_ends_as_an_undisturbed_one(start, tmp_path):
  """Kill a run twice, the second time in a save, and ask it to stop once.

  `python -m scripts.kill_runs` does the same to more kinds of run.
  """
  code, said = finish(start(*SMALL, workdir="undisturbed"))
  assert code == 0, said
  killed = start(*SMALL, workdir="killed")
  wait_for_step(tmp_path / "killed", 7)  # neither of a checkpoint nor a line
  kill(killed)
  killed = start(*SMALL, workdir="killed")
  wait_for_new_checkpoint(tmp_path / "killed/checkpoints")
  kill(killed)
  stopped = start(*SMALL, workdir="killed")
  logged = read_metrics(tmp_path / "killed")[-1]["step"]
  wait_for_step(tmp_path / "killed", min(logged + 3, STEPS))
  stopped.send_signal(signal.SIGTERM)
  code, said = finish(stopped)
  assert code == 0, said
  if not (tmp_path / "killed/result.json").exists():  # it was not too late
    assert "the same command resumes from here" in said
  code, said = finish(start(*SMALL, workdir="killed"))
  assert code == 0, said

  expected, found = (
    outcome(tmp_path / name) for name in ("undisturbed", "killed")
  )
  assert differences(expected, found) == []
  check_outputs(tmp_path / "undisturbed", expected["metrics.jsonl"])

  result = (tmp_path / "killed/result.json").read_text()
  (tmp_path / "killed/result.json").unlink()  # as if killed just before it
  code, said = finish(start(*SMALL, workdir="killed"))
  assert code == 0
  assert "finished" in said
  assert (tmp_path / "killed/result.json").read_text() == result


def kill(process):
  process.send_signal(signal.SIGKILL)
  finish(process)


def wait_for_new_checkpoint(checkpoints):
  """Wait until a checkpoint, or its temporary directory, appears."""
  before = set(checkpoints.iterdir())
  deadline = time.monotonic() + 300
  while set(checkpoints.iterdir()) <= before:
    assert time.monotonic() < deadline
    time.sleep(0.001)


def check_outputs(path, metrics):
  """Check the files of a finished run."""
  tags = {tag for line in metrics for tag in line}
  assert {"train/loss", "train/sharpness", "test/error_rate"} <= tags
  assert {"clean_train/error_rate", "test/top_5_error_rate"} <= tags
  result = json.loads((path / "result.json").read_text())
  last = [line for line in metrics if "test/error_rate" in line][-1]
  assert result["error_rate"] == last["test/error_rate"]
  assert result["step"] == last["step"] == STEPS
  config = json.loads((path / "config.json").read_text())
  assert config["model"]["name"] == "tests.tiny:ConvNet"


@pytest.fixture
def interruptible():
  """Let SIGINT interrupt this process, even if its caller ignores SIGINT."""
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, previous)


def test_signals_that_ask_to_stop(interruptible):
  with preemption.StopRequest() as stop:
    stop.listen()
    assert not stop.is_due()
    for _ in range(2):  # as the shell and the kernel do for a closed terminal
      signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)  # as clusters do some time later
    assert stop.is_due()
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
  try:
    with preemption.StopRequest() as stop:
      stop.listen()
      signal.raise_signal(signal.SIGHUP)
      assert not stop.is_due()
      signal.raise_signal(signal.SIGTERM)
      assert stop.is_due()
  finally:
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_the_announced_end_of_a_job_is_a_request_to_stop(number):
  with preemption.StopRequest() as stop:
    stop.listen()
    signal.raise_signal(number)
    assert stop.is_due()


def test_outside_of_training_a_signal_ends_the_process(monkeypatch):
  left = []
  monkeypatch.setattr(watchdog, "leave", lambda *args: left.append(args))
  with signals.handled_by(signals.exit_at_once):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
      signal.raise_signal(number)
    with preemption.StopRequest() as stop:
      stop.listen()
      signal.raise_signal(signal.SIGINT)
      assert len(left) == 3
      signal.raise_signal(signal.SIGINT)  # impatient
  assert [code for code, _ in left] == [130, 0, 0, 130]
  assert left[1][1].startswith("stopped by SIGTERM. The same command starts")


def test_a_thread_trains_without_signal_handlers():
  before = signal.getsignal(signal.SIGTERM)

  def listen():
    with preemption.StopRequest() as stop:
      stop.listen()
      return signal.getsignal(signal.SIGTERM), stop.is_due()

  with futures.ThreadPoolExecutor(1) as pool:
    assert pool.submit(listen).result() == (before, False)


@pytest.mark.long
def test_divergence_is_named_and_leaves_the_checkpoint_before_it(
  start, tmp_path
):
  """Decay of 200 times the weights makes them grow 199-fold in a step."""
  process = start(
    *SMALL,
    "--config.optimizer.learning_rate=1",
    "--config.optimizer.schedule=constant",
    "--config.optimizer.momentum=0",
    "--config.optimizer.weight_decay=200",
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
  "flag": (["--wrokdir=x"], "wrokdir"),
  "argument": (["rho=0.1"], "rho=0.1"),
  "batch": (["--config.batch_size=100"], "does not divide by the 8 devices"),
  "dataset": (["--config.dataset.name=cifar10"], "sam_jax.datasets.prepare"),
}


def test_bad_commands_give_one_line_and_exit_code_2(start):
  """All at once: most of their time is the start of Python."""
  running = {
    name: start(
      "--config=configs/digits.py:sam", *flags, devices=8, workdir=name
    )
    for name, (flags, _) in BAD_COMMANDS.items()
  }
  for name, process in running.items():
    code, said = finish(process)
    assert code == 2, (name, said)
    (line,) = [s for s in said.splitlines() if s.startswith("error: ")]
    assert BAD_COMMANDS[name][1] in line, name
    assert "Traceback" not in said, name


BAD_CONFIGS = [
  ({"sam.rho": -1.0}, r"config\.sam\.rho = -1\.0 must be >= 0"),
  ({"sam.m": 7}, "can be 1, 2, 4, 8, 16, 32, 64, 128"),
  ({"profile": "9:3"}, "config.profile = '9:3' must be START"),
]


@pytest.fixture
def config(digits_dir):
  """A small config."""
  config = default_config()
  config.update_from_flattened_dict(
    {
      "dataset.name": "digits",
      "dataset.data_dir": str(digits_dir),
      "model.name": "wrn10_1",
      "batch_size": 128,
    }
  )
  return config


@pytest.mark.parametrize(("fields", "message"), BAD_CONFIGS)
def test_bad_configs_are_refused(fields, message, config, tmp_path):
  config.update_from_flattened_dict(fields)
  with pytest.raises(ConfigError, match=message):
    loop.train_and_evaluate(config, tmp_path)


def test_bad_workdirs_are_refused(config, tmp_path):
  with pytest.raises(ConfigError, match="--workdir=/proc/none can't be"):
    loop.train_and_evaluate(config, "/proc/none")
  in_use = f"in use by process {os.getpid()} on "
  with (
    workdir.claim(tmp_path, config),
    pytest.raises(ConfigError, match=in_use),
  ):
    loop.train_and_evaluate(config, tmp_path)


def test_import_needs_no_tensorflow():
  code = (
    "import sys, sam_jax, sam_jax.training.loop;"
    "assert 'tensorflow' not in sys.modules;"
    "assert 'tensorflow_datasets' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
