"""Actions around training steps: log, evaluate, save.

The loop calls every hook after every step, in order. Hooks that take time act
within `LogMetrics.paused()`: pending log lines come first, and the time does
not count as training.
"""

import collections
import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sam_jax.pretrained.checkpoint import Checkpoint
from sam_jax.runs import loggers
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.runs.event_file import hyperparameters
from sam_jax.runs.logging import MetricsWriter, image_grid, log_line
from sam_jax.runs.workdir import check_present, to_dict, write_result
from sam_jax.training import build, parallel
from sam_jax.training.input_pipeline import Dataset
from sam_jax.training.losses import LOSSES
from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts, eval_step
from sam_jax.training.throughput import Stopwatch, Throughput

logger = logging.getLogger(__name__)

# (steps done, state, metrics of the last step, no step follows)
Hook = Callable[[int, TrainState, dict[str, jax.Array], bool], None]

# (state, split) -> means over every example of the split, by metric
Means = Callable[[TrainState, str], dict[str, float]]

# Steps, of training or evaluation, that the host may run ahead of the devices:
# enough to keep them busy, few enough to answer a preemption at once.
_RUN_AHEAD = 2


class DivergedError(FloatingPointError):
  """Loss or gradient is no longer finite."""


@dataclasses.dataclass(frozen=True)
class RunContext:
  """The parts of a run that hooks use."""

  config: ConfigDict
  workdir: epath.Path
  dataset: Dataset
  parts: Parts
  checkpoints: Checkpoints
  writer: MetricsWriter | None = None  # of process 0, once the logs are open
  first_step: int = 0  # at which this process starts or resumes
  # Raises `StoppedError` if the run is asked to stop. Call it in measurements
  # that take long, in all processes at the same points.
  check_stop: Callable[[], None] = lambda: None
  weights: Checkpoint | None = None  # to start from, until the first step

  @property
  def total_steps(self) -> int:
    """Optimizer steps of the whole run."""
    return self.config.num_epochs * self.dataset.steps_per_epoch

  def is_epoch(self, step: int, every: float) -> bool:
    """Return True if `step` is a multiple of `every` epochs."""
    return step % max(round(every * self.dataset.steps_per_epoch), 1) == 0

  def is_due(self, step: int, every: int, is_last: bool) -> bool:
    """Return True if a measurement of every few epochs is due at a step.

    A run that is asked to stop may be killed soon: it only saves its state, and
    measures when it resumes.
    """
    is_stopping = is_last and step < self.total_steps
    return self.is_epoch(step, every) and not is_stopping

  def is_logged(self, step: int, prefix: str) -> bool:
    """Return True if an earlier process logged this measurement.

    Every process must call it: the first one, which has the logs, answers.
    """
    if step != self.first_step:
      return False
    is_logged = bool(self.writer and self.writer.lines.has(prefix, step))
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(is_logged)))

  def write(
    self,
    step: int,
    prefix: str,
    values: dict[str, float],
    **line: float,
  ) -> None:
    """Write scalars to the logs, and a line to the console."""
    if self.writer:
      self.writer.scalars(step, prefix, values)
      self.writer.flush()
    epoch = step / self.dataset.steps_per_epoch
    log_line(step, self.total_steps, epoch, prefix, values, **line)

  def log_stop(self, step: int) -> None:
    """Log that the run stops on request, with a checkpoint."""
    logger.info(
      "Stopped at step %d of %d; the same command resumes from here.",
      step,
      self.total_steps,
    )

  def finish(self, result: dict[str, float] | None) -> None:
    """Complete the checkpoints and the logs of a run that did all its steps.

    Args:
      result: The last evaluation; None if an earlier process made it.
    """
    self.checkpoints.close()  # a run with a result has its last one, too
    if self.writer and result:
      check_present(self.workdir)
      self.writer.close(
        is_finished=True
      )  # a run with a result has complete logs
      write_result(self.workdir, result)


def open_writer(
  config: ConfigDict,
  workdir: epath.Path,
  first_step: int,
  images: np.ndarray | None,
) -> MetricsWriter | None:
  """Open the logs; a new run starts with its config and some images.

  Args:
    config: Config of the run.
    workdir: Directory of the run.
    first_step: Step at which this process starts or resumes.
    images: uint8 [N, H, W, C], augmented; None if the run resumes.

  Returns:
    The writer, or None on other processes than the first.
  """
  if jax.process_index() != 0:
    return None
  fields = to_dict(config)
  opened = loggers.open_loggers(config.log_to, workdir, hyperparameters(fields))
  writer = MetricsWriter(workdir, first_step, opened)
  every = config.log_every_steps
  writer.lines.warn_of_missing("train", range(every, first_step + 1, every))
  if images is not None:
    writer.config(fields)
    writer.image(0, "train/augmented_images", image_grid(images))
  return writer


class LogMetrics:
  """Writes the metrics of steps, and keeps the host near the devices.

  A line is written once the devices have finished its step, a few steps after
  the host started it. Waiting for every step would leave the devices idle.
  """

  def __init__(self, run: RunContext, stopwatch: Stopwatch | None = None):
    """Prepare the log lines of a run.

    Args:
      run: The run.
      stopwatch: Shared by the runs that train together; None for a new one.
    """
    self._run = run
    self._in_flight: collections.deque[Any] = collections.deque()
    self._latest: tuple[int, Any] | None = None
    self._stopwatch = stopwatch or Stopwatch()
    self._throughput = Throughput(
      run.config.batch_size, run.total_steps, self._stopwatch
    )

  def __call__(
    self, step: int, state: TrainState, metrics: Any, is_last: bool
  ) -> None:
    """Wait for the oldest unfinished step, and log it if it is due."""
    del state
    self._latest = step, metrics
    self._in_flight.append(self._latest)
    if not self._throughput.is_running:  # the first step, which is compiled
      self._finish_all()
      self._throughput.start(step)
    while len(self._in_flight) > _RUN_AHEAD:
      self._finish_oldest()
    if is_last:
      self._finish_all()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Finish and log all steps; do not count the time in the context."""
    self._finish_all()
    if self._latest:
      self._check_finite(*self._latest)
    with self._stopwatch.paused():
      yield

  def _finish_all(self) -> None:
    while self._in_flight:
      self._finish_oldest()

  def _finish_oldest(self) -> None:
    step, metrics = self._in_flight.popleft()
    jax.block_until_ready(metrics)
    every, total = self._run.config.log_every_steps, self._run.total_steps
    if step % every and step != total:
      return
    self._check_finite(step, metrics)
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    del values["diverged_at"]
    rate, seconds_left = self._throughput.read(step)
    self._run.write(
      step,
      "train",
      {**values, "images_per_second": rate},
      images_per_second=rate,
      seconds_left=seconds_left,
    )
    if self._run.writer and (memory := parallel.memory()):
      self._run.writer.scalars(step, "memory", memory)

  def _check_finite(self, step: int, metrics: Any) -> None:
    since = int(metrics["diverged_at"])
    if since < 0:
      return
    self._run.checkpoints.wait()  # a small network is faster than a disk
    kept = self._run.checkpoints.steps()
    raise DivergedError(
      f"Loss or gradient is not finite since step {since} (noticed at {step}):"
      f" learning rate {float(metrics['learning_rate']):.4g}, config.sam.rho ="
      f" {self._run.config.sam.rho}. Last checkpoint: step"
      f" {kept[-1] if kept else 'none'}. Try a lower learning rate or rho, or"
      " gradient clipping, in a new workdir."
    )


class Evaluate:
  """Evaluates on the test set and, if configured, on the training set."""

  def __init__(
    self, run: RunContext, log: LogMetrics, means: Means | None = None
  ):
    """Prepare the evaluations of a run.

    Args:
      run: The run.
      log: Its log lines.
      means: Evaluates a state; None compiles the program of this run.
    """
    self._run, self._log = run, log
    self._means = means or _compile_means(run)
    self.result: dict[str, float] | None = None  # the last one of the test set

  def __call__(
    self, step: int, state: TrainState, metrics: Any, is_last: bool
  ) -> None:
    """Evaluate after every few epochs, and at the end of the run."""
    del metrics
    every, total = self._run.config.eval_every_epochs, self._run.total_steps
    if step == total or self._run.is_due(step, every, is_last):
      with self._log.paused():
        self._evaluate(step, state)

  def _evaluate(self, step: int, state: TrainState) -> None:
    """Evaluate and log what no earlier process has logged."""
    run = self._run
    if step == run.total_steps or not run.is_logged(step, "test"):
      values = self._means(state, "test")
      run.write(step, "test", values)
      self.result = {"step": step, **values}
    if run.config.eval_on_train and not run.is_logged(step, "clean_train"):
      run.write(step, "clean_train", self._means(state, "train"))


def _compile_means(run: RunContext) -> Means:
  """Compile the evaluation of one run."""
  preprocess = build.preprocess_fn(run.dataset.spec)
  loss = LOSSES[run.config.loss]
  program = parallel.map_eval_step(
    lambda variables, batch: eval_step(
      variables, batch, run.parts.model, preprocess, loss
    )
  )

  def means(state: TrainState, split: str) -> dict[str, float]:
    variables = state.eval_variables()
    sums = []
    for batch in run.dataset.eval_batches(split):
      run.check_stop()
      sums.append(program(variables, parallel.shard(batch)))
      if len(sums) > _RUN_AHEAD:
        jax.block_until_ready(sums[-1 - _RUN_AHEAD])
    return means_of_sums(sums)

  return means


def means_of_sums(sums: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Return means over all examples from what `eval_step` returns for batches.

  Args:
    sums: float32 scalars by metric for each batch, on the devices or not.
  """
  totals = jax.tree.map(lambda *x: math.fsum(x), *jax.device_get(sums))
  count = totals.pop("count")
  return {name: total / count for name, total in totals.items()}


class SaveCheckpoint:
  """Saves the state every few epochs, at chosen epochs, and at the end.

  It also saves before the first measurement of each kind, which compiles: no
  request to stop interrupts a compilation, and it may take longer than the
  notice of a preemption.
  """

  def __init__(self, run: RunContext, log: LogMetrics):
    self._run, self._log = run, log
    self._saved = run.first_step  # 0: nothing yet
    config = run.config
    self._uncompiled = {config.eval_every_epochs, config.analysis.every_epochs}
    self._uncompiled.discard(0)  # no analysis

  def __call__(
    self, step: int, state: TrainState, metrics: Any, is_last: bool
  ) -> None:
    """Save the state after the pending log lines are written."""
    del metrics
    if step != self._saved and (is_last or self._is_due(step)):
      run = self._run
      with self._log.paused():
        # Publish first: a run resumes with the logs up to its checkpoint.
        if run.writer:
          check_present(run.workdir)
          run.writer.publish()
        run.checkpoints.save(state)
      self._saved = step

  def _is_due(self, step: int) -> bool:
    config, run = self._run.config, self._run
    epochs, rest = divmod(step, run.dataset.steps_per_epoch)
    is_kept = rest == 0 and epochs in config.keep_checkpoints_at_epochs
    compiling = {n for n in self._uncompiled if run.is_epoch(step, n)}
    self._uncompiled -= compiling
    is_regular = run.is_epoch(step, config.checkpoint_every_epochs)
    return is_kept or is_regular or bool(compiling)
