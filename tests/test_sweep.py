"""`python -m sam_jax.sweep`: its flags, messages and exit codes, real runs."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from tests.in_process import run_script
from tests.processes import REPOSITORY, wait_for_step

# Variables of the first of two tasks that srun starts.
TASK = {
  "SLURM_JOB_ID": "4242",
  "SLURM_NTASKS": "2",
  "SLURM_STEP_NUM_TASKS": "2",
  "SLURM_STEP_NODELIST": "localhost",
  "SLURM_PROCID": "0",
  "SLURM_LOCALID": "0",
}


@pytest.fixture
def sweep(capsys):
  """Run the command in this process; return its exit code and output."""

  def run(*arguments):
    code = 0
    try:
      run_script("sweep", *map(str, arguments))
    except SystemExit as end:
      code = end.code or 0
    return code, *capsys.readouterr()

  return run


@pytest.fixture
def planned(sweep):
  """Return workdirs and other arguments of the runs of a dry run."""

  def run(*arguments):
    code, said, error = sweep("--dry_run", *arguments)
    assert code == 0, error
    commands = [shlex.split(line) for line in said.splitlines()]
    python = [sys.executable, "-m", "sam_jax.train"]
    assert all(command[:3] == python for command in commands)
    return {command[3]: command[4:] for command in commands}

  return run


def test_shards_have_all_runs_once_and_a_dry_run_writes_nothing(
  planned, tmp_path
):
  arguments = (
    "--config=configs/digits.py:sam",
    f"--root={tmp_path}",
    "--grid=sam.rho=0.02,0.1",
    "--grid=seed=0,1,2",
  )
  runs = planned(*arguments, "--", "--config.num_epochs=2")
  assert len(runs) == 6
  assert runs[f"--workdir={tmp_path}/sam.rho=0.1,seed=2"] == [
    "--config=configs/digits.py:sam",
    "--config.sam.rho=0.1",
    "--config.seed=2",
    "--config.num_epochs=2",
  ]
  shards = [planned(*arguments, f"--shard={i}/4") for i in range(4)]
  assert [len(shard) for shard in shards] == [2, 2, 1, 1]
  assert {name for shard in shards for name in shard} == set(runs)
  assert not list(tmp_path.iterdir())


def test_runs_together_have_one_command(sweep, tmp_path):
  code, said, _ = sweep(
    "--config=configs/digits.py:sam",
    *("--dry_run", "--together=8", f"--root={tmp_path}"),
    *("--grid=sam.rho=0,0.1,0.2", "--grid=seed=0,1"),
  )
  assert code == 0
  commands = [shlex.split(line) for line in said.splitlines()]
  assert [len(command) for command in commands] == [3 + 2, 3 + 4]
  assert shlex.split(commands[1][-1].removeprefix("--run=")) == [
    f"--workdir={tmp_path}/sam.rho=0.2,seed=1",
    "--config=configs/digits.py:sam",
    *("--config.sam.rho=0.2", "--config.seed=1"),
  ]


def test_several_processes_are_refused_together(sweep, tmp_path, monkeypatch):
  for name, value in TASK.items():
    monkeypatch.setenv(name, value)
  code, _, error = sweep(
    "--config=configs/digits.py", f"--root={tmp_path}", "--together=2"
  )
  assert code == 2
  assert error.startswith("error: --together=2 must be left out, or --shard")


def test_tilde_is_the_home_directory(planned, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (workdir,) = planned(
    "--config=configs/digits.py", "--root=~/runs", "--grid=seed=0"
  )
  assert workdir == f"--workdir={tmp_path}/runs/seed=0"


BAD_ARGUMENTS = {
  "no config": (["--config="], "--config is missing"),
  "no root": (["--root="], "--root is missing"),
  "file": (["--config=configs/cifra.py"], "configs/cifra.py"),
  "no Python": (
    ["--config=README.md"],
    "--config=README.md is not a Python file",
  ),
  "variant": (["--config=configs/digits.py:adam"], "Known: sam, sgd"),
  "field": (
    ["--grid=sam.roh=0.1"],
    "Unknown field --config.sam.roh. Did you mean --config.sam.rho?",
  ),
  "value": (["--grid=sam.rho=__import__('os')"], "sam.rho"),
  "number": (["--grid=sam.rho=-1,0"], "--config.sam.rho=-1 must be >= 0"),
  "m": (["--grid=sam.m=7,8"], "sam.m=7: config.sam.m: m = 7 does not fit"),
  "axis": (["--grid=seed"], "--grid=seed must look like"),
  "twice": (["--grid=seed=0", "--grid=seed=1"], "'seed' twice"),
  "same": (["--grid=seed=1,1"], "would be called 'seed=1'"),
  "shard": (["--shard=2/2"], "--shard=2/2 must be i/n"),
  "flag": (["--girds=1"], "girds"),
  "extra": (["--", "--config.sam.roh=1"], "--config.sam.roh"),
  "word": (["--", "seed=1"], "seed=1 is not a flag"),
  "slurm": (["--slurm=time=5"], "--slurm needs --launcher=slurm"),
  "launcher": (["--launcher=pbs"], "--launcher"),
  "no time": (["--launcher=slurm"], "--slurm=time=... is missing"),
  "option": (
    ["--launcher=slurm", "--slurm=partitoin=gpu"],
    "unknown key 'partitoin'",
  ),
  "shards": (
    ["--launcher=slurm", "--slurm=time=5", "--shard=0/2"],
    "--shard must be left out: --launcher=slurm submits all runs.",
  ),
  "unknown flag of runs": (
    ["--", "--process_idd=1"],
    "Unknown flag --process_idd after --. Did you mean --process_id?",
  ),
  "workdir of runs": (
    ["--", "--workdir=x"],
    "--workdir=x can't be a flag of every run: the sweep decides it.",
  ),
  "config of runs": (["--", "--config=a.py"], "can't be a flag of every run"),
  "summary of runs": (["--", "--summary"], "can't be a flag of every run"),
  "long name": (
    [f"--grid=notes={'x' * 250}"],
    "xxx'..., of 256 bytes. Choose other values",
  ),
  "together": (["--together=0"], "--together=0"),
  "together in jobs": (
    ["--together=2", "--launcher=slurm", "--slurm=time=5"],
    "--together=2 must be left out: --launcher=slurm trains each run in a job",
  ),
  "together on several hosts": (
    ["--together=2", "--", "--coordinator_address=auto"],
    "--together=2 must be left out: --coordinator_address=auto is for runs of",
  ),
  "together from a stream": (
    ["--together=2", "--", "--config.dataset.name=imagenet2012"],
    "config.dataset.name = 'imagenet2012' can't be used with --together",
  ),
  "root": (["--root=/proc/none"], "--root=/proc/none can't be written: "),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_give_one_line_and_exit_code_2(name, sweep, tmp_path):
  arguments, message = BAD_ARGUMENTS[name]
  code, said, error = sweep(
    "--config=configs/digits.py", f"--root={tmp_path}", *arguments
  )
  assert (code, said) == (2, "")
  (line,) = error.splitlines()
  assert line.startswith("error: ")
  assert message in line


def test_shards_on_the_hosts_of_a_pod_are_refused(sweep, tmp_path, monkeypatch):
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-0,host-1")
  code, _, error = sweep(
    "--config=configs/digits.py", f"--root={tmp_path}", "--shard=0/2"
  )
  assert code == 2
  assert error.startswith("error: --shard must be left out: the hosts of a TPU")


@pytest.mark.long
def test_failed_interrupted_resumed_and_finished_runs(
  sweep, tmp_path, digits_dir, monkeypatch
):
  one_device = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
  cache = os.environ.get("SAM_JAX_TEST_CACHE", "~/.cache/sam_jax/tests")
  arguments = [
    "--config=configs/digits.py:sgd",
    f"--root={tmp_path}",
    "--grid=dataset.name=cifar10,cifar100,digits",
    "--shard=0/2",
    "--",
    "--config.model.name=tests.tiny:ConvNet",
    "--config.augment.policy=basic",
    *("--config.num_epochs=60", "--config.log_every_steps=1"),
    *("--config.batch_size=32", "--config.dataset.validation_size=1346"),
    "--config.eval_every_epochs=30",
    f"--config.dataset.data_dir={digits_dir}",
    f"--config.compilation_cache_dir={cache}",
  ]
  failing, other, good = (
    tmp_path / f"dataset.name={name}"
    for name in ("cifar10", "cifar100", "digits")
  )

  # A failing run does not stop the rest; a terminal that closes does, with a
  # checkpoint. None of them waits for srun's other task.
  process = subprocess.Popen(
    [sys.executable, "-m", "sam_jax.sweep", *arguments],
    cwd=REPOSITORY,
    env=os.environ | {"XLA_FLAGS": one_device} | TASK,
    stdout=subprocess.PIPE,
    text=True,
  )
  wait_for_step(good, 3)
  for _ in range(2):  # the shell's and the kernel's
    process.send_signal(signal.SIGHUP)
  said, _ = process.communicate(timeout=300)
  assert process.returncode == 130
  assert "failed with exit code 2" in said
  assert said.endswith("Interrupted. Run the same command again to resume.\n")
  stopped = max(int(p.name) for p in (good / "checkpoints").iterdir())
  assert "Stopped at step" in (good / "log.txt").read_text()
  assert not other.exists()
  names = json.loads((tmp_path / "sweep.json").read_text())["runs"]
  assert set(names) == {failing.name, other.name, good.name}

  monkeypatch.setenv("XLA_FLAGS", one_device)
  code, said, _ = sweep(*arguments)
  assert code == 1
  assert "1 of 2 runs is finished." in said
  assert f"failed with exit code 2, see {failing}/log.txt" in said
  assert "sam_jax.datasets.prepare" in (failing / "log.txt").read_text()
  log = (good / "log.txt").read_text()
  assert f"checkpoint at step {stopped}" in log

  only_good = [a.replace("cifar10,cifar100,", "") for a in arguments]
  code, said, _ = sweep(*only_good)
  assert code == 0
  assert "finished before" in said
  code, said, _ = sweep(*only_good, "--config.seed=1")
  assert code == 1
  assert said.endswith("another config: seed was 0 and is now 1\n")
