"""Two processes train the same network as one process, and fail together."""

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent import futures
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sam_jax.config.schema import ConfigError, default_config
from sam_jax.runs import distributed
from tests.processes import REPOSITORY, finish, read_metrics, wait_for_step

# 3 steps per epoch; the checkpoint of the first epoch is kept. Larger steps or
# perturbations would let ReLUs amplify the rounding of sums.
SMALL = (
  "--config=configs/digits.py:sam",
  "--config.model.name=wrn10_1",
  "--config.num_epochs=400",
  "--config.batch_size=48",
  "--config.dataset.validation_size=1298",
  "--config.sam.m=12",
  "--config.sam.rho=0.05",
  "--config.optimizer.learning_rate=0.01",
  "--config.log_every_steps=1",
  "--config.augment.policy=basic",
  "--config.augment.mixup_alpha=1.0",
  "--config.checkpoint_every_epochs=1",
  "--config.keep_checkpoints_at_epochs=(1,)",
)


def free_port():
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


@pytest.fixture
def start_two(start):
  """Start two processes with two devices each."""

  def start_both():
    port = free_port()
    return [
      start(
        *SMALL,
        f"--coordinator_address=localhost:{port}",
        "--num_processes=2",
        f"--process_id={i}",
        workdir="two",
        devices=2,
      )
      for i in range(2)
    ]

  return start_both


def test_two_processes_train_fail_and_resume_together(
  start, start_two, tmp_path
):
  one = start(*SMALL, workdir="one", devices=4)
  first, second = start_two()
  wait_for_step(tmp_path / "one", 4)
  one.kill()
  wait_for_step(tmp_path / "two", 4)
  compare(tmp_path / "one", tmp_path / "two")
  second.kill()
  check_that_it_leaves(first)

  first, second = start_two()
  check_that_they_resume(tmp_path / "two")
  second.send_signal(signal.SIGTERM)  # only one of them is preempted
  outcomes = [finish(process) for process in (first, second)]
  assert [code for code, _ in outcomes] == [0, 0], outcomes
  said = outcomes[0][1]
  assert "Resuming from the checkpoint at step" in said
  assert "Stopped at step" in said
  assert "images/s" not in outcomes[1][1]  # the second one is silent


# Joins another process, and then waits until it is killed.
JOIN = """
import signal, sys
from sam_jax.runs import distributed
distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
print("joined", flush=True)
signal.pause()
"""


def test_the_others_leave_when_the_first_process_dies():
  address = f"localhost:{free_port()}"
  first, second = (
    subprocess.Popen(
      [sys.executable, "-c", JOIN, address, str(i)],
      cwd=REPOSITORY,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  )
  with first, second:
    try:
      assert [p.stdout.readline() for p in (first, second)] == ["joined\n"] * 2
      first.kill()
      check_that_it_leaves(second)
    finally:
      first.kill()
      second.kill()


def compare(one, two):
  """Compare logs and checkpoints up to the rounding of sums."""
  logs = [read_metrics(workdir)[:4] for workdir in (one, two)]
  assert [line["step"] for line in logs[0]] == [1, 2, 3, 3]
  for mine, theirs in zip(*logs, strict=True):
    assert theirs == pytest.approx(mine, rel=1e-4)
  states = [
    ocp.StandardCheckpointer().restore(workdir / "checkpoints/3/state")
    for workdir in (one, two)
  ]
  for part in ("params", "batch_stats", "opt_state", "step"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      *(state[part] for state in states),
    )


def check_that_it_leaves(process):
  """Check that a process ends within 90 s of its partner, and reports it."""
  _, said = process.communicate(timeout=90)
  assert process.returncode != 0
  assert "another task died" in said or "go on from the last" in said
  assert "Traceback" not in said


def check_that_they_resume(workdir):
  """Check that restarted processes resume exactly at the last checkpoint."""
  last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
  before = [line for line in read_metrics(workdir) if line["step"] <= last]
  wait_for_step(workdir, read_metrics(workdir)[-1]["step"] + 1)
  after = read_metrics(workdir)
  assert after[: len(before)] == before
  assert after[len(before)]["step"] == last + 1


def test_some_flags_without_the_others_are_refused():
  with pytest.raises(ValueError, match="missing: num_processes, process_id"):
    distributed.initialize("localhost:1", None, None)


# Variables of an allocation of two tasks, and of the first of two tasks that
# srun starts in it.
ALLOCATION = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
STEP = ALLOCATION | {
  "SLURM_STEP_NUM_TASKS": "2",
  "SLURM_STEP_NODELIST": "localhost",
  "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
  "environment",
  [ALLOCATION, {"TPU_WORKER_HOSTNAMES": "localhost"}, {}],
)
def test_one_process_needs_no_coordinator(environment, monkeypatch):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  distributed.initialize(None, None, None)  # or it would wait for others


@pytest.fixture
def initialized(monkeypatch):
  """Record the calls of JAX's initialization in place of making them."""
  calls = []
  monkeypatch.setattr(
    distributed.jax.distributed,
    "initialize",
    lambda **kwargs: calls.append(kwargs),
  )
  return calls


@pytest.mark.parametrize(
  "environment",
  [
    STEP,
    {"OMPI_COMM_WORLD_SIZE": "4"},
    {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
  ],
)
def test_clusters_are_found(environment, monkeypatch, initialized):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  distributed.initialize(None, None, None)
  assert initialized


def test_unknown_clusters_give_one_line_with_a_remedy(monkeypatch):
  def initialize(**kwargs):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")  # all that Open MPI 5 sets
  message = r"finds no other processes.*Give --coordinator_address=host:port"
  with pytest.raises(ValueError, match=message):
    distributed.initialize(None, None, None)


def test_environment_of_one_process():
  environment = distributed.environment_of_one(STEP | {"PATH": "/bin"})
  left = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NODELIST")
  expected = {k: STEP[k] for k in (*left, "SLURM_LOCALID")}
  assert environment == expected | {"PATH": "/bin"}
  with mock.patch.dict(os.environ, environment, clear=True):
    distributed.initialize(None, None, None)  # or it would wait for another
  # JAX finds no cluster either, even where it is asked to.
  done = subprocess.run(
    [sys.executable, "-c", "import jax; jax.distributed.initialize()"],
    env=environment | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert "coordinator_address should be defined" in done.stderr
  with pytest.raises(ValueError, match="hosts of a TPU pod train every run"):
    distributed.environment_of_one({"TPU_WORKER_HOSTNAMES": "a,b"})


def test_pods_are_joined_on_request_only(monkeypatch, initialized):
  distributed.initialize("auto", None, None)
  (call,) = initialized
  assert "coordinator_address" not in call  # JAX finds all that it needs
  monkeypatch.setattr(distributed.jax, "process_count", lambda: 4)
  with pytest.raises(ValueError, match=r"one of 4 hosts .*=auto"):
    distributed.initialize(None, None, None)


def check_two(monkeypatch, *runs):
  """Return what two processes, threads here, find when they compare runs."""
  barrier, own, said = threading.Barrier(2), threading.local(), [None, None]

  def allgather(numbers):
    said[own.process] = numbers
    barrier.wait(timeout=60)
    gathered = np.stack(said)
    barrier.wait(timeout=60)
    return gathered

  def check(process):
    own.process = process
    try:
      distributed.check_same(*runs[process])
    except ConfigError as error:
      return str(error)
    return ""

  monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    distributed.multihost_utils, "process_allgather", allgather
  )
  with futures.ThreadPoolExecutor(2) as pool:
    return list(pool.map(check, range(2)))


def test_processes_of_different_runs_are_refused(monkeypatch):
  first, second = default_config(), default_config()
  second.dataset.data_dir = "/of/this/host"
  assert check_two(monkeypatch, (first, "a"), (second, "a")) == ["", ""]

  second.optimizer.learning_rate = 0.5
  said = check_two(monkeypatch, (first, "a"), (second, "b"))
  for line, here in zip(said, [(0.1, "'a'"), (0.5, "'b'")], strict=True):
    assert line.startswith(
      "The processes of this run differ in config.optimizer.learning_rate (here"
      f" {here[0]}), --workdir (here {here[1]}): start all"
    )

  del second.bootstrap
  said = check_two(monkeypatch, (first, "a"), (second, "a"))
  assert said == ["The processes of this run have different code."] * 2
