"""Train the planned runs of a sweep one after another, in processes."""

import os
import shlex
import signal
import subprocess
import time
import types
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sam_jax import paths
from sam_jax.config.schema import ConfigError, flatten
from sam_jax.runs import distributed, signals, workdir
from sam_jax.runs.sweep import PlannedRun


class Failure(NamedTuple):
  """A run that is not finished.

  Attributes:
    name: Name of the run.
    reason: Why it is not finished, and where to read more.
  """

  name: str
  reason: str


class Interruptions:
  """Pass signals to stop on to the current run.

  The first signal terminates the run, which saves a checkpoint. A second Ctrl-C
  kills it.
  """

  def __init__(self, report: Callable[[str], None]):
    """Prepare to handle signals, which starts when the context is entered.

    Args:
      report: Shows a line to the user.
    """
    self.happened = False
    self._report = report
    self._process: subprocess.Popen | None = None
    self._previous: dict[signal.Signals, signals.Handler] = {}

  def __enter__(self) -> "Interruptions":
    for number in signals.stop_signals():
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def wait(self, process: subprocess.Popen) -> int:
    """Wait for the process of a run; return its exit code."""
    self._process = process
    if self.happened:  # between the decision to train and the start
      process.terminate()
    code = process.wait()
    self._process = None
    return code

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    is_first, self.happened = not self.happened, True
    if self._process is None:
      return
    if is_first:
      self._process.terminate()
      self._report("Stopping the run; a second Ctrl-C kills it.")
    elif signals.forces_exit(number):
      self._process.kill()


def environment_of_runs(num_shards: int) -> dict[str, str]:
  """Return the environment variables of the runs of a shard.

  srun or mpirun may have started the shards as processes of one job. Their runs
  must not take each other for processes of one run.

  Args:
    num_shards: Number of shards of the sweep.

  Raises:
    ConfigError: The machines of the shards cannot train independently.
  """
  if num_shards == 1:
    return dict(os.environ)
  try:
    return distributed.environment_of_one(os.environ)
  except ValueError as error:
    raise ConfigError(f"--shard must be left out: {error}") from error


def train_all(
  runs: Sequence[PlannedRun],
  environment: dict[str, str],
  interruptions: Interruptions,
  report: Callable[[str], None],
) -> list[Failure]:
  """Train the runs that are not finished, until interrupted.

  Args:
    runs: Runs, in their order.
    environment: Environment variables of their processes.
    interruptions: Inside its context.
    report: Shows a line to the user.

  Returns:
    The runs that were tried and are not finished.
  """
  failures = []
  for number, run in enumerate(runs, start=1):
    label = f"[{number}/{len(runs)}] {run.name}"
    start = time.monotonic()
    error, reason = find_result(run)
    if reason := reason or conflict(run):
      report(f"{label}: {reason}")
      failures.append(Failure(run.name, reason))
    elif error is not None:
      report(f"{label}: finished before")
    else:
      report(f"{label}: training")
      error, reason = train(run, environment, interruptions)
      seconds = time.monotonic() - start
      outcome = reason or f"finished, error {error:.2%}"
      report(f"{label}: {outcome} ({seconds:.0f} s)")
      if reason:
        failures.append(Failure(run.name, f"{reason}, see {run.log}"))
    if interruptions.happened:
      break
  return failures


def find_result(run: PlannedRun) -> tuple[float | None, str]:
  """Return the error rate of a run, and what is wrong with its result.json.

  Returns:
    (error rate, "") of a finished run; (None, "") of another one; (None,
    reason) if the file is damaged or can't be read.
  """
  try:
    result = workdir.read_result(run.workdir)
  except ConfigError as error:
    return None, (
      f"{error}. Remove it: the same command then evaluates the run again"
    )
  except Exception as error:  # gs:// clients raise errors of their own
    return None, f"result.json can't be read: {paths.describe_error(error)}"
  return result["error_rate"] if result else None, ""


def conflict(run: PlannedRun) -> str:
  """Return how a config differs from that of its workdir; "" if it fits."""
  try:
    old = workdir.read_config(run.workdir)
    if old is None or not workdir.has_begun(run.workdir):
      return ""
  except Exception:  # gs:// clients raise errors of their own
    return ""  # the run itself reports the file
  new = workdir.to_dict(run.config)
  written = dict(flatten(old))
  for group, field in (("sam", "m"), ("model", "batch_norm_examples")):
    if new[group][field] is None:
      # The run wrote the number of its devices; it checks that it has as many.
      new[group][field] = written.get(f"{group}.{field}")
  different = workdir.differences(old, new)
  if not different:
    return ""
  return f"holds a run with another config: {'; '.join(different)}"


def train(
  run: PlannedRun, environment: dict[str, str], interruptions: Interruptions
) -> tuple[float | None, str]:
  """Train a run and append its output to its log.

  Args:
    run: Run to train.
    environment: Environment variables of its process.
    interruptions: Inside its context.

  Returns:
    Its error rate, and ""; or None, and why the run is not finished.
  """
  run.log.parent.mkdir(parents=True, exist_ok=True)
  with run.log.open("a") as log:
    log.write(f"$ {shlex.join(run.command)}\n")
    log.flush()
    # In its own session the run does not receive the terminal's Ctrl-C, which
    # `interruptions` passes on once.
    process = subprocess.Popen(
      run.command,
      env=environment,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )
    code = interruptions.wait(process)
  error, reason = find_result(run)
  if error is not None:
    return error, ""
  if interruptions.happened:
    return None, "interrupted"
  if code:
    return None, f"failed with exit code {code}"
  return None, reason or "stopped before its end"
