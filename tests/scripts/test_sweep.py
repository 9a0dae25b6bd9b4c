"""Sweeps: which runs they plan, and what becomes of real ones."""

import os
import shlex
import signal
import subprocess
import sys

from processes import REPOSITORY, wait_for_step


def start_sweep(*arguments):
  """Starts the script on one virtual CPU device."""
  xla_flags = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
  return subprocess.Popen(
    [sys.executable, "scripts/sweep.py", *map(str, arguments)],
    cwd=REPOSITORY,
    env=os.environ | {"XLA_FLAGS": xla_flags},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  """Waits for a sweep; returns its exit code and what it said."""
  stdout, stderr = process.communicate(timeout=300)
  return process.returncode, stdout, stderr


def planned(*arguments):
  """Workdirs and other arguments of the runs that a dry run prints."""
  code, said, error = finish(start_sweep("--dry_run", *arguments))
  assert code == 0, error
  commands = [shlex.split(line) for line in said.splitlines()]
  assert all(c[:3] == [sys.executable, "-m", "sam_jax.train"] for c in commands)
  return {command[3]: command[4:] for command in commands}


def test_grid_makes_all_combinations_and_a_shard_its_part(tmp_path):
  arguments = (
    "--config=configs/digits.py:sam",
    f"--root={tmp_path}",
    "--grid=sam.rho=0.02,0.1",
    "--grid=seed=0,1,2",
  )
  runs = planned(*arguments, "--", "--config.num_epochs=2")
  assert list(runs)[:2] == [
    f"--workdir={tmp_path}/sam.rho=0.02,seed=0",
    f"--workdir={tmp_path}/sam.rho=0.02,seed=1",
  ]
  assert list(runs.values())[5] == [
    "--config=configs/digits.py:sam",
    "--config.sam.rho=0.1",
    "--config.seed=2",
    "--config.num_epochs=2",
  ]
  shards = [planned(*arguments, f"--shard={i}/4") for i in range(4)]
  assert [len(shard) for shard in shards] == [2, 2, 1, 1]
  assert {name for shard in shards for name in shard} == set(runs)
  assert not list(tmp_path.iterdir())


def test_sweep_of_a_config(tmp_path):
  words = "wrn28_10,200_epochs,cifar10,basic"
  runs = planned(f"--config=configs/cifar.py:{words}", f"--root={tmp_path}")
  assert len(runs) == 10
  assert runs[f"--workdir={tmp_path}/{words},sgd,seed=4"] == [
    f"--config=configs/cifar.py:{words},sgd",
    "--config.seed=4",
  ]


BAD_ARGUMENTS = {
  "no config": (["--config="], "--config is missing"),
  "file": (["--config=configs/cifra.py"], "configs/cifra.py"),
  "variant": (["--config=configs/digits.py:adam"], "Known: sam, sgd"),
  "field": (
    ["--grid=sam.roh=0.1"],
    "Unknown field --config.sam.roh. Did you mean --config.sam.rho?",
  ),
  "value": (["--grid=sam.rho=__import__('os')"], "sam.rho"),
  "axis": (["--grid=seed"], "--grid=seed must look like"),
  "twice": (["--grid=seed=0", "--grid=seed=1"], "'seed' twice"),
  "same": (["--grid=seed=1,1"], "would be called 'seed=1'"),
  "shard": (["--shard=2/2"], "--shard=2/2 must be i/n"),
  "flag": (["--girds=1"], "girds"),
  "extra": (["--", "--config.sam.roh=1"], "--config.sam.roh"),
  "word": (["--", "seed=1"], "seed=1 is no flag"),
  "remote": (["--root=gs://bucket"], "must be a local directory"),
}


def test_bad_arguments_give_one_line_and_exit_code_2(tmp_path):
  running = {
    name: start_sweep(
      "--config=configs/digits.py", f"--root={tmp_path}", *arguments
    )
    for name, (arguments, _) in BAD_ARGUMENTS.items()
  }
  for name, process in running.items():
    code, said, error = finish(process)
    assert (code, said) == (2, ""), name
    (line,) = error.splitlines()
    assert line.startswith("error: "), name
    assert BAD_ARGUMENTS[name][1] in line, name


def test_failed_interrupted_resumed_and_finished_runs(tmp_path, data_dir):
  arguments = (
    "--config=configs/digits.py:sgd",
    f"--root={tmp_path}",
    "--grid=optimizer.learning_rate=1e38,0.1",
    "--",
    *("--config.model.name=wrn10_1", "--config.optimizer.gradient_clipping=0"),
    *("--config.num_epochs=6", "--config.log_every_steps=1"),
    f"--config.dataset.data_dir={data_dir}",
  )
  failing = tmp_path / "optimizer.learning_rate=1e38"
  good = tmp_path / "optimizer.learning_rate=0.1"

  # A failing run does not stop the rest; Ctrl-C does, with a checkpoint.
  sweep = start_sweep(*arguments)
  wait_for_step(good, 3)
  sweep.send_signal(signal.SIGINT)
  code, said, error = finish(sweep)
  assert code == 130, error
  assert "failed with exit code 1" in said
  assert said.endswith("Interrupted. The same command goes on from here.\n")
  (stopped,) = [int(p.name) for p in (good / "checkpoints").iterdir()]
  assert "Stopped at step" in (good / "log.txt").read_text()

  code, said, _ = finish(start_sweep(*arguments))
  assert code == 1
  assert "1 of 2 runs are finished." in said
  assert f"failed with exit code 1, see {failing}/log.txt" in said
  assert "not finite" in (failing / "log.txt").read_text()
  log = (good / "log.txt").read_text()
  assert f"Going on from the checkpoint at step {stopped}" in log

  only_good = [a.replace("1e38,", "") for a in arguments]
  code, said, _ = finish(start_sweep(*only_good))
  assert code == 0
  assert "finished before" in said
  code, said, _ = finish(start_sweep(*only_good, "--config.seed=1"))
  assert code == 1
  assert "another config: seed was 0 and is now 1" in said
