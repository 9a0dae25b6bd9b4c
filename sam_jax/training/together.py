"""The story of several runs that one program trains side by side.

The runs differ only in numbers, which are arguments of the program; its arrays
have a leading axis of runs. Everything else a run has for itself, as in `loop`:
data, hooks, logs and checkpoints. A run that fails does not end the others.
"""

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sam_jax import paths
from sam_jax.config.schema import ConfigError
from sam_jax.datasets.catalog import DatasetError
from sam_jax.runs import logging as run_logging
from sam_jax.runs.compilation import free_programs_if_many
from sam_jax.runs.preemption import StoppedError, StopRequest
from sam_jax.runs.workdir import WorkdirLostError
from sam_jax.training import hyperparameters, parallel
from sam_jax.training.hooks import (
  DivergedError,
  Evaluate,
  Hook,
  LogMetrics,
  RunContext,
  SaveCheckpoint,
  open_writer,
)
from sam_jax.training.loop import ExtraHook
from sam_jax.training.programs_of_runs import Programs
from sam_jax.training.runs_axis import StepOfRuns, stack
from sam_jax.training.start import initial_state, open_run
from sam_jax.training.state import TrainState
from sam_jax.training.throughput import Stopwatch

logger = logging.getLogger(__name__)

# What ends one run, in one line.
_FAILURES = (ConfigError, DatasetError, DivergedError, WorkdirLostError)


def train_and_evaluate(
  runs: Sequence[tuple[ConfigDict, epath.PathLike]],
  extra_hooks: Sequence[ExtraHook] = (),
) -> list[Exception]:
  """Train networks side by side, or resume where earlier processes stopped.

  Every workdir gets what `loop.train_and_evaluate` writes. Runs may resume at
  different steps: those that are behind catch up before all train together.

  Args:
    runs: Configs and workdirs; all with the same `groups.program_of`.
    extra_hooks: Builders of further hooks, see `loop.train_and_evaluate`.

  Returns:
    The errors of the runs that failed.
  """
  with contextlib.ExitStack() as contexts:
    contexts.callback(free_programs_if_many)
    stop = contexts.enter_context(StopRequest())
    members = [_Member(*run) for run in runs]
    for member in members:
      contexts.push(member.contexts)
      with member.failing_alone():
        member.open()
    if opened := [member for member in members if not member.error]:
      programs = Programs(opened[0].run, stop.check)
      for member in opened:
        with member.failing_alone():
          member.restore(programs)
      stop.listen()
      _train(opened, programs, extra_hooks, stop)
  return [member.error for member in members if member.error]


def _train(
  members: Sequence["_Member"],
  programs: Programs,
  extra_hooks: Sequence[ExtraHook],
  stop: StopRequest,
) -> None:
  """Train the runs until each has ended, or they are asked to stop."""
  stopwatch = Stopwatch()
  while waiting := [m for m in members if not (m.error or m.is_done)]:
    first, *later = sorted({member.step for member in waiting})
    group = [member for member in waiting if member.step == first]
    total = group[0].run.total_steps
    last = later[0] if later else total
    batches = programs.train_batches(
      [member.run for member in group], first, last
    )
    images: Sequence[np.ndarray | None] = [None] * len(group)
    if first == 0:
      first_batch = next(batches)
      images = programs.previews(first_batch)
      batches = itertools.chain(iter([first_batch]), batches)
      del first_batch  # else it would stay on the devices; a list keeps it, too
    numbers = [hyperparameters.extract(member.run.config) for member in group]
    numbers = parallel.replicate(stack(numbers))
    state = parallel.replicate(stack([member.state for member in group]))
    step, done = first, StepOfRuns(state, {})
    try:
      for i, member in enumerate(group):
        if not member.hooks:
          with member.failing_alone():
            member.start(programs, extra_hooks, stopwatch, images[i], stop)
            member.measure(done.state_of(i))
      for before, batch in batches:
        state, metrics = programs.step(state, batch, numbers)
        step, done = before + 1, StepOfRuns(state, metrics)
        is_stopping = stop.is_due()
        _call_hooks(group, done, step, is_stopping or step == total)
        if all(member.error for member in group):
          break
        if is_stopping and step < total:
          raise StoppedError
    except StoppedError:  # after a step, or within a measurement
      for i, member in enumerate(group):
        member.stop(step, done.state_of(i))
      return
    for i, member in enumerate(group):
      member.end_phase(last, done.state_of(i))


def _call_hooks(
  group: Sequence["_Member"], done: StepOfRuns, step: int, is_last: bool
) -> None:
  """Call the hooks of all runs: the states of all are saved first."""
  for number in range(max(len(member.hooks) for member in group)):
    for i, member in enumerate(group):
      if not member.error:
        with member.failing_alone():
          hook = member.hooks[number]
          hook(step, done.state_of(i), done.metrics_of(i), is_last)


class _Member:
  """One run: what `loop.train_and_evaluate` has in variables.

  Attributes:
    run: What hooks use.
    state: The state at `step` while it waits for runs that are behind.
    step: Steps done so far, while it waits.
    hooks: Its hooks in their order, the measurements last; none before it
      trains.
    error: Why it failed.
    is_done: No step and no measurement is left to do.
    contexts: Logs, checkpoints and the claim of its workdir.
  """

  run: RunContext
  state: TrainState  # or a `StateOfRun`
  step = 0
  is_done = False
  error: Exception | None = None

  def __init__(self, config: ConfigDict, workdir: epath.PathLike):
    self._config, self._workdir = config, paths.resolve(workdir)
    self.hooks: list[Hook] = []
    self.contexts = contextlib.ExitStack()

  @contextlib.contextmanager
  def failing_alone(self) -> Iterator[None]:
    """End this run, and no other, if the context fails."""
    with run_logging.lines_of(self._workdir.name):
      try:
        try:
          yield
        except StoppedError:
          raise
        except Exception:
          with self.contexts:  # they may turn the error into another one
            raise
      except _FAILURES as error:
        self.error = error
        logger.error("error: %s", error)

  def open(self) -> None:
    """Claim the workdir, and load the data."""
    run = open_run(self._config, self._workdir)
    self.run = self.contexts.enter_context(run)

  def restore(self, programs: Programs) -> None:
    """Read the newest checkpoint, or make a fresh state."""
    fresh = programs.create_state(self.run.config)
    run = self.run
    self.state = initial_state(run.config, fresh, run.checkpoints, run.weights)
    self.step = int(self.state.step)
    if self.step == self.run.total_steps:
      logger.info("This run is finished: %s", self.run.workdir)
      self.is_done = (self.run.workdir / "result.json").exists()

  def start(
    self,
    programs: Programs,
    extra_hooks: Sequence[ExtraHook],
    stopwatch: Stopwatch,
    images: np.ndarray | None,
    stop: StopRequest,
  ) -> None:
    """Open the logs, and build the hooks."""
    run = self.run
    writer = open_writer(run.config, run.workdir, self.step, images)
    if writer:
      self.contexts.enter_context(writer)
    run = dataclasses.replace(
      run,
      weights=None,
      writer=writer,
      first_step=self.step,
      check_stop=stop.check,
    )
    log = LogMetrics(run, stopwatch)
    self._save = SaveCheckpoint(run, log)
    self._evaluate = Evaluate(run, log, programs.means)
    self._measurements: list[Hook] = [
      self._evaluate,
      *(hook(run, log) for hook in extra_hooks),
    ]
    self.hooks = [log, self._save, *self._measurements]
    self.run = run

  def measure(self, state: Any) -> None:
    """Make the measurements of the checkpoint's step that are missing."""
    if self.step:
      for hook in self._measurements:
        hook(self.step, state, {}, False)

  def stop(self, step: int, state: Any) -> None:
    """Save the state, and log that the run stops on request."""
    if self.hooks and not self.error:
      with self.failing_alone():
        self._save(step, state, {}, True)
        self.run.log_stop(step)

  def end_phase(self, step: int, state: Any) -> None:
    """Finish at the last step; wait with the state at another one."""
    if self.error:
      return
    if step < self.run.total_steps:
      self.step, self.state = step, state
      return
    with self.failing_alone():
      self.run.finish(self._evaluate.result)
      self.is_done = True
