"""Runs of a sweep, with small programs in place of training."""

import json
import os
import signal
import subprocess
import sys

import pytest
from etils import epath

from sam_jax.config.schema import default_config
from sam_jax.runs import groups, launch, workdir
from sam_jax.runs.sweep import PlannedRun

FINISH = """
import json, pathlib, sys
print("training")
result = {"error_rate": 0.125, "step": 9}
(pathlib.Path(sys.argv[1]) / "result.json").write_text(json.dumps(result))
"""
FAIL = "import sys; print('out of memory', file=sys.stderr); sys.exit(3)"
STOP_EARLY = ""

# Interrupts the sweep, and saves when the sweep asks the run to stop.
INTERRUPT = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getppid(), signal.SIGINT)
signal.sigwait([signal.SIGTERM])
print("saved")
"""


@pytest.fixture
def launched(tmp_path):
  """Train runs that are these programs; return failures and messages."""

  def train(**programs):
    said = []
    runs = [
      make_run(tmp_path / name, program) for name, program in programs.items()
    ]
    with launch.Interruptions(said.append) as interruptions:
      failures = launch.train_all(
        runs, dict(os.environ), interruptions, said.append
      )
    return failures, said, interruptions.happened

  return train


def make_run(path, program):
  command = [sys.executable, "-c", program, str(path)]
  return PlannedRun(
    path.name, epath.Path(path), path / "log.txt", command, default_config()
  )


def without_seconds(lines):
  return [line.rpartition(" (")[0] or line for line in lines]


def test_one_failure_does_not_stop_the_rest(launched, tmp_path):
  failures, said, interrupted = launched(a=FAIL, b=STOP_EARLY, c=FINISH)
  assert failures == [
    ("a", f"failed with exit code 3, see {tmp_path}/a/log.txt"),
    ("b", f"stopped before its end, see {tmp_path}/b/log.txt"),
  ]
  assert without_seconds(said) == [
    "[1/3] a: training",
    "[1/3] a: failed with exit code 3",
    "[2/3] b: training",
    "[2/3] b: stopped before its end",
    "[3/3] c: training",
    "[3/3] c: finished, error 12.50%",
  ]
  assert not interrupted
  command, output = (tmp_path / "a/log.txt").read_text().splitlines()
  assert command.startswith(f"$ {sys.executable} -c ")
  assert output == "out of memory"


def test_finished_runs_are_skipped_and_others_resume(launched, tmp_path):
  launched(a=FINISH, b=FAIL)
  log = (tmp_path / "a/log.txt").read_text()
  failures, said, _ = launched(a=FAIL, b=FINISH)
  assert failures == []
  assert said[0] == "[1/2] a: finished before"
  assert said[-1].startswith("[2/2] b: finished, error 12.50% (")
  assert (tmp_path / "a/log.txt").read_text() == log
  resumed = (tmp_path / "b/log.txt").read_text()
  assert resumed.index("out of memory") < resumed.index("training")


def test_runs_of_a_group_share_a_process_and_its_log(tmp_path, monkeypatch):
  finish_first = FINISH + "sys.exit(1)"
  commands = []

  def command_of(runs):
    commands.append([run.name for run in runs])
    first = str(runs[0].workdir)
    return [sys.executable, "-c", finish_first, first]

  monkeypatch.setattr(groups, "command_of", command_of)
  runs, said = [make_run(tmp_path / name, "") for name in "abc"], []
  with launch.Interruptions(said.append) as interruptions:
    failures = launch.train_all(
      runs, dict(os.environ), interruptions, said.append, together=2
    )
  assert commands == [["a", "b"], ["c"]]
  assert failures == [
    ("b", f"failed with exit code 1, see {tmp_path}/a/log.txt")
  ]
  assert without_seconds(said) == [
    "[1/3] a: training together with 1 more",
    "[2/3] b: training together with 1 more",
    "[1/3] a: finished, error 12.50%",
    "[2/3] b: failed with exit code 1",
    "[3/3] c: training",
    "[3/3] c: finished, error 12.50%",
  ]
  pointer = (tmp_path / "b/log.txt").read_text()
  assert pointer == f"Training together with a: see {tmp_path}/a/log.txt\n"


def test_another_config_is_refused_without_a_log(launched, tmp_path):
  config = default_config()
  config.seed = 7
  path = tmp_path / "a"
  (path / "checkpoints/1").mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(workdir.to_dict(config)))
  failures, said, _ = launched(a=FINISH)
  reason = "holds a run with another config: seed was 7 and is now 0"
  assert failures == [("a", reason)]
  assert said == [f"[1/1] a: {reason}"]
  assert not (path / "log.txt").exists()


def test_interrupted_sweep_lets_the_run_save_and_starts_no_other(
  launched, tmp_path
):
  failures, said, interrupted = launched(a=INTERRUPT, b=FINISH)
  assert interrupted
  assert failures == [("a", f"interrupted, see {tmp_path}/a/log.txt")]
  assert without_seconds(said) == [
    "[1/2] a: training",
    "Stopping the run; a second Ctrl-C kills it.",
    "[1/2] a: interrupted",
  ]
  assert (tmp_path / "a/log.txt").read_text().endswith("saved\n")
  assert not (tmp_path / "b").exists()


class FakeProcess:
  """A process during which the sweep gets signals; records its own."""

  def __init__(self, signals):
    self.signals, self.received = signals, []

  def wait(self):
    for number in self.signals:
      signal.raise_signal(number)
    return 0

  def terminate(self):
    self.received.append("terminate")

  def kill(self):
    self.received.append("kill")


def test_what_the_devices_decided_is_no_conflict(launched, tmp_path):
  """config.json has the numbers that None stood for."""
  config = default_config()
  assert config.sam.m is None
  config.sam.m = config.model.batch_norm_examples = 32
  (tmp_path / "a/checkpoints/1").mkdir(parents=True)
  written = json.dumps(workdir.to_dict(config))
  (tmp_path / "a/config.json").write_text(written)
  failures, _, _ = launched(a=FINISH)
  assert failures == []


@pytest.mark.parametrize(
  ("text", "damage"),
  [
    ("", "is not a JSON object"),
    ("[]", "is not a JSON object"),
    ("{}", "has no valid step, error_rate"),
    ('{"error_rate": 0.5}', "has no valid step"),
    ('{"error_rate": 30, "step": 9}', "has no valid error_rate"),
  ],
)
def test_a_damaged_result_does_not_count_as_finished(
  launched, tmp_path, text, damage
):
  (tmp_path / "a").mkdir()
  (tmp_path / "a/result.json").write_text(text)
  (failure,), said, _ = launched(a=FINISH, b=FINISH)
  assert failure.name == "a"
  assert failure.reason.startswith(f"result.json {damage}. Remove it: ")
  assert said[0] == f"[1/2] a: {failure.reason}"
  assert said[-1].startswith("[2/2] b: finished, error 12.50%")


@pytest.mark.parametrize("reads", [0, 1])
def test_a_result_that_cannot_be_read_is_a_failure_of_its_run(
  reads, launched, tmp_path, monkeypatch
):
  """Before or after it trained; the other runs are trained."""
  read, left = workdir.read_result, [reads]

  def fail(path):
    if path.name == "a" and not left[0]:
      raise PermissionError(13, "Permission denied", str(path))
    left[0] -= path.name == "a"
    return read(path)

  monkeypatch.setattr(workdir, "read_result", fail)
  (failure,), said, _ = launched(a=FINISH, b=FINISH)
  log = f", see {tmp_path}/a/log.txt" if reads else ""
  reason = f"result.json can't be read: Permission denied{log}"
  assert failure == ("a", reason)
  assert said[-1].startswith("[2/2] b: finished, error 12.50%")


@pytest.mark.parametrize("name", ["sam", "optimizer", "model"])
def test_a_config_of_wrong_types_is_a_failure_of_its_run(
  launched, tmp_path, name
):
  (tmp_path / "a/checkpoints/1").mkdir(parents=True)
  written = workdir.to_dict(default_config()) | {name: 3}
  (tmp_path / "a/config.json").write_text(json.dumps(written))
  (failure,), said, _ = launched(a=FINISH, b=FINISH)
  assert failure.reason.startswith("holds a run with another config: ")
  assert said[-1].startswith("[2/2] b: finished")


def test_an_unreadable_config_is_left_to_its_run(launched, tmp_path):
  (tmp_path / "a/config.json").mkdir(parents=True)
  failures, _, _ = launched(a=FAIL, b=FINISH)
  assert [failure.name for failure in failures] == ["a"]


SIGNALS = [
  ([signal.SIGINT], ["terminate"]),
  ([signal.SIGTERM], ["terminate"]),
  ([signal.SIGINT, signal.SIGINT], ["terminate", "kill"]),
  ([signal.SIGTERM, signal.SIGINT], ["terminate", "kill"]),
  # A cluster sends SIGTERM some time after SIGUSR1.
  ([signal.SIGUSR1, signal.SIGTERM], ["terminate"]),
  # A terminal that closes sends SIGHUP twice.
  ([signal.SIGHUP, signal.SIGHUP], ["terminate"]),
]


@pytest.mark.parametrize(("signals", "received"), SIGNALS)
def test_only_a_second_ctrl_c_kills(signals, received):
  process = FakeProcess(signals)
  with launch.Interruptions(lambda line: None) as interruptions:
    assert interruptions.wait(process) == 0
    assert interruptions.happened
  assert process.received == received


def test_signals_before_the_start_stop_the_run_and_handlers_return():
  said = []
  before = signal.getsignal(signal.SIGTERM)
  with launch.Interruptions(said.append) as interruptions:
    signal.raise_signal(signal.SIGTERM)
    assert (interruptions.happened, said) == (True, [])
    with subprocess.Popen(["sleep", "300"]) as process:
      assert interruptions.wait(process) == -signal.SIGTERM
  assert signal.getsignal(signal.SIGTERM) == before


# Variables of one of two tasks that srun starts.
TASK = {
  "SLURM_JOB_ID": "4242",
  "SLURM_STEP_NUM_TASKS": "2",
  "SLURM_PROCID": "1",
}


def test_runs_of_a_shard_do_not_join_those_of_another(monkeypatch):
  for name, value in TASK.items():
    monkeypatch.setenv(name, value)
  assert launch.environment_of_runs(1).items() >= TASK.items()
  alone = launch.environment_of_runs(2)
  assert alone["SLURM_JOB_ID"] == "4242"
  assert not {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"} & set(alone)
  assert alone["PATH"] == os.environ["PATH"]
