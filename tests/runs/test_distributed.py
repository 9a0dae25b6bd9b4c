"""Two processes train the same network as one process, and fail together."""

import itertools
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
  "--config.model.name=tests.tiny:ConvNet",
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


@pytest.mark.long
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
  """Check that a process ends soon after its partner, with one line."""
  _, said = process.communicate(timeout=90)
  assert process.returncode == 1
  (line,) = [s for s in said.splitlines() if s.startswith("error: ")]
  assert "lost" in line
  assert "they resume from the last checkpoint" in line
  assert "Traceback" not in said
  assert "stack trace" not in said


def check_that_they_resume(workdir):
  """Check that restarted processes resume exactly at the last checkpoint."""
  last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
  before = [line for line in read_metrics(workdir) if line["step"] <= last]
  wait_for_step(workdir, read_metrics(workdir)[-1]["step"] + 1)
  after = read_metrics(workdir)
  assert after[: len(before)] == before
  # A measurement of the checkpoint's step that was missing comes first.
  trained = [line for line in after[len(before) :] if "train/loss" in line]
  assert trained[0]["step"] == last + 1


WRONG_PLACES = [
  (("localhost:1", None, None), "missing: num_processes, process_id"),
  (("localhost", 2, 0), "=localhost must be host:port"),
  (("localhost:abc", 2, 0), "=localhost:abc must be host:port"),
  (("localhost:70000", 2, 0), "a port from 1 to 65535"),
  ((":1234", 2, 0), "must be host:port"),
  (("localhost:1", 2, 2), "--process_id=2 must be between 0 and 1"),
  (("localhost:1", 2, -1), "--process_id=-1 must be between 0 and 1"),
]


@pytest.mark.parametrize(("place", "message"), WRONG_PLACES)
def test_wrong_places_are_refused(place, message):
  with pytest.raises(ValueError, match=message):
    distributed.initialize(*place)


def test_a_port_in_use_is_refused():
  with socket.create_server(("localhost", 0)) as server:
    address = f"localhost:{server.getsockname()[1]}"
    with pytest.raises(ValueError, match=f"{address} is in use by another"):
      distributed.initialize(address, 2, 0)


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
  """Record attempts to join other processes in place of making them."""
  calls = []
  monkeypatch.setattr(
    distributed, "_join", lambda *seconds, **place: calls.append(place)
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


class Store:
  """Stands in for the store that all processes share."""

  def __init__(self):
    self._values, self._changed = {}, threading.Condition()

  def key_value_set(self, key, value):
    with self._changed:
      assert key not in self._values
      self._values[key] = value
      self._changed.notify_all()

  def blocking_key_value_get(self, key, timeout_in_ms):
    with self._changed:
      assert self._changed.wait_for(lambda: key in self._values, timeout=60)
      return self._values[key]


def check_two(monkeypatch, *runs):
  """Return what two processes, threads here, find when they compare runs."""
  state, store = threading.local(), Store()

  def check(process):
    state.process_id, state.num_processes, state.client = process, 2, store
    try:
      distributed.check_same(*runs[process])
    except ConfigError as error:
      return str(error)
    return ""

  monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
  monkeypatch.setattr(distributed.jax_distributed, "global_state", state)
  monkeypatch.setattr(distributed, "_numbers", itertools.repeat(0))
  with futures.ThreadPoolExecutor(2) as pool:
    return list(pool.map(check, range(2)))


def test_processes_of_different_runs_are_refused(monkeypatch):
  first, second = default_config(), default_config()
  second.dataset.data_dir = "/of/this/host"
  assert check_two(monkeypatch, (first, "a"), (second, "a")) == ["", ""]

  second.optimizer.learning_rate = 0.5
  said = check_two(monkeypatch, (first, "a"), (second, "b"))
  line = (
    "The processes of this run differ in config.optimizer.learning_rate (0.1 on"
    " process 0, 0.5 on process 1); --workdir ('a' on process 0, 'b' on process"
    " 1): start all of them with the same command."
  )
  assert said == [line] * 2

  del second.bootstrap
  said = check_two(monkeypatch, (first, "a"), (second, "a"))
  assert (
    "config.bootstrap.beta (None on process 0, nothing on process 1)" in said[0]
  )
