"""Train the planned runs of a sweep, one process after another."""

import os
import shlex
import signal
import subprocess
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sam_jax import paths
from sam_jax.config.schema import ConfigError, flatten
from sam_jax.runs import distributed, groups, signals, workdir
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
  together: int = 1,
) -> list[Failure]:
  """Train the runs that are not finished, until interrupted.

  Args:
    runs: Runs, in their order.
    environment: Environment variables of their processes.
    interruptions: Inside its context.
    report: Shows a line to the user.
    together: Most runs of a process, see `groups.in_groups`.

  Returns:
    The runs that were tried and are not finished.
  """
  failures = []
  labels = {
    run.name: f"[{number}/{len(runs)}] {run.name}"
    for number, run in enumerate(runs, start=1)
  }

  def unfinished() -> Iterator[PlannedRun]:
    for run in runs:
      if interruptions.happened:
        return
      error, reason = find_result(run)
      if reason := reason or conflict(run):
        report(f"{labels[run.name]}: {reason}")
        failures.append(Failure(run.name, reason))
      elif error is not None:
        report(f"{labels[run.name]}: finished before")
      else:
        yield run

  for group in groups.in_groups(unfinished(), together):
    if interruptions.happened:
      break
    start = time.monotonic()
    for run in group:
      others = f" together with {len(group) - 1} more" if group[1:] else ""
      report(f"{labels[run.name]}: training{others}")
    outcomes = train(group, environment, interruptions)
    seconds = time.monotonic() - start
    for run, (error, reason) in zip(group, outcomes, strict=True):
      outcome = reason or f"finished, error {error:.2%}"
      report(f"{labels[run.name]}: {outcome} ({seconds:.0f} s)")
      if reason:
        failures.append(Failure(run.name, f"{reason}, see {group[0].log}"))
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
  runs: Sequence[PlannedRun],
  environment: dict[str, str],
  interruptions: Interruptions,
) -> list[tuple[float | None, str]]:
  """Train runs in one process, whose output goes to the log of the first.

  Args:
    runs: One run, or several that can train together.
    environment: Environment variables of the process.
    interruptions: Inside its context.

  Returns:
    For each run its error rate, and ""; or None, and why it is not finished.
  """
  first, *others = runs
  for run in runs:
    run.log.parent.mkdir(parents=True, exist_ok=True)
  for run in others:
    with run.log.open("a") as log:
      log.write(f"Training together with {first.name}: see {first.log}\n")
  command = groups.command_of(runs)
  with first.log.open("a") as log:
    log.write(f"$ {shlex.join(command)}\n")
    log.flush()
    # In its own session the run does not receive the terminal's Ctrl-C, which
    # `interruptions` passes on once.
    process = subprocess.Popen(
      command,
      env=environment,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )
    code = interruptions.wait(process)
  return [_outcome(run, code, interruptions.happened) for run in runs]


def _outcome(
  run: PlannedRun, code: int, is_interrupted: bool
) -> tuple[float | None, str]:
  """Return the error rate of a run whose process ended, or what happened."""
  error, reason = find_result(run)
  if error is not None:
    return error, ""
  if is_interrupted:
    return None, "interrupted"
  if code:
    return None, f"failed with exit code {code}"
  return None, reason or "stopped before its end"
