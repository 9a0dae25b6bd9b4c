"""Two processes on this machine train the network of one process."""

import signal
import socket
import time

import pytest
from processes import finish, read_metrics, wait_for_step

from sam_jax.training import distributed

# 6 steps an epoch, logged at steps 3, 6, ...
SMALL = (
  "--config=configs/digits.py:sam",
  "--config.model.name=wrn10_1",
  "--config.batch_size=240",
  "--config.sam.m=60",
  "--config.log_every_steps=3",
  "--config.augment.policy=basic",
  "--config.augment.mixup_alpha=1.0",
  "--config.checkpoint_every_epochs=1",
)


def free_port():
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


@pytest.fixture
def start_two(start):
  """Starts two processes of two devices each."""

  def start_both(*flags):
    port = free_port()
    return [
      start(
        *(*SMALL, *flags),
        f"--coordinator_address=localhost:{port}",
        "--num_processes=2",
        f"--process_id={i}",
        workdir="two",
        devices=2,
      )
      for i in range(2)
    ]

  return start_both


def test_two_processes_train_fail_and_go_on_together(
  start, start_two, tmp_path
):
  one = start(*SMALL, "--config.num_epochs=400", workdir="one", devices=4)
  wait_for_step(tmp_path / "one", 6)
  one.kill()

  first, second = start_two("--config.num_epochs=400")
  wait_for_step(tmp_path / "two", 9)  # past the checkpoint at step 6
  compare_first_steps(tmp_path / "one", tmp_path / "two")
  second.kill()
  killed_at = time.monotonic()
  code, said = finish(first)
  assert code != 0
  assert time.monotonic() - killed_at < 90
  assert "another task died" in said or "go on from the last" in said
  assert "Traceback" not in said

  first, second = start_two("--config.num_epochs=400")
  lines = len(read_metrics(tmp_path / "two"))
  wait_for_step(
    tmp_path / "two", read_metrics(tmp_path / "two")[-1]["step"] + 3
  )
  assert lines
  second.send_signal(signal.SIGTERM)  # only one of them is preempted
  outcomes = [finish(process) for process in (first, second)]
  assert [code for code, _ in outcomes] == [0, 0], outcomes
  said = outcomes[0][1]
  assert "Going on from the checkpoint at step" in said
  assert "Stopped at step" in said
  assert "images/s" not in outcomes[1][1]  # the second one is silent


def compare_first_steps(one, two):
  """Equal up to the order of sums, which ReLU amplifies step by step."""
  metrics = [read_metrics(workdir) for workdir in (one, two)]
  for mine, theirs in zip(metrics[0][:1], metrics[1][:1], strict=True):
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
      tolerance = 1e-4 if name == "train/loss" else 1e-2
      assert value == pytest.approx(theirs[name], rel=tolerance), name


def test_half_of_the_flags_is_refused():
  with pytest.raises(ValueError, match="missing: num_processes, process_id"):
    distributed.initialize("localhost:1", None, None)


@pytest.mark.parametrize(
  "environment",
  [{"SLURM_NTASKS": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}, {}],
)
def test_one_process_needs_no_coordinator(environment, monkeypatch):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  distributed.initialize(None, None, None)  # or it would wait for others


@pytest.fixture
def initialized(monkeypatch):
  """Records the calls of JAX's initialisation, which is left out."""
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
    {"SLURM_NTASKS": "2"},
    {"OMPI_COMM_WORLD_SIZE": "4"},
    {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
  ],
)
def test_clusters_are_found(environment, monkeypatch, initialized):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  distributed.initialize(None, None, None)
  assert initialized


def test_pods_are_joined_when_asked_to(monkeypatch, initialized):
  distributed.initialize("auto", None, None)
  (call,) = initialized
  assert "coordinator_address" not in call  # JAX finds all that it needs
  monkeypatch.setattr(distributed.jax, "process_count", lambda: 4)
  with pytest.raises(ValueError, match=r"one of 4 hosts .*=auto"):
    distributed.initialize(None, None, None)
