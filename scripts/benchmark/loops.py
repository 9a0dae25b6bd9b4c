"""Time the training loop against the bare training step."""

import contextlib
import functools
import tempfile
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from sam_jax.training import build, input_pipeline, loop, parallel
from sam_jax.training.hooks import LogMetrics, RunContext
from sam_jax.training.state import TrainState
from sam_jax.training.step import train_step
from scripts.benchmark import timing
from scripts.benchmark.timing import ratio, spread

# Steps of the loop after every pause. They use up the batches that were
# prepared during the pause.
_LEAD = 10


def measure_loop(
  config: ConfigDict, steps: int, rounds: int
) -> list[dict[str, Any]]:
  """Time stretches of a real run, each followed by as many bare steps.

  The loop draws batches, augments them, logs and saves as the config says. The
  bare steps repeat one batch that is on the devices already, and start when the
  background work of the loop is done. The run has no evaluation and no
  analysis.

  Args:
    config: The config of the run; its length is set as needed.
    steps: Steps of a stretch.
    rounds: Number of stretches.

  Returns:
    A row of both: images a second, and the loop's over the bare step's. Above
    1 there is no loss that could be measured.

  Raises:
    ConfigError, DatasetError: The run can't start.
  """
  config = build.validate(config, jax.device_count())
  steps_per_epoch = input_pipeline.create_dataset(config).steps_per_epoch
  # An epoch more than needed: the last step of a run evaluates.
  needed = (_LEAD + steps) * rounds
  config.num_epochs = needed // steps_per_epoch + 1
  config.eval_every_epochs = config.num_epochs + 1
  hooks: list[_TimeStretches] = []

  def create_hook(run: RunContext, log: LogMetrics) -> _TimeStretches:
    del log
    hooks.append(_TimeStretches(run, steps, rounds))
    return hooks[0]

  with (
    tempfile.TemporaryDirectory() as workdir,
    contextlib.suppress(_AllMeasuredError),
  ):
    loop.train_and_evaluate(config, workdir, [create_hook])
  images = config.batch_size * steps
  loop_seconds, bare_seconds = hooks[0].loop_seconds, hooks[0].bare_seconds
  return [
    {
      "loop images/s": spread([images / s for s in loop_seconds]),
      "bare images/s": spread([images / s for s in bare_seconds]),
      "loop over bare": ratio(bare_seconds, loop_seconds),
    }
  ]


class _AllMeasuredError(Exception):
  """All stretches are measured; the run may end."""


class _TimeStretches:
  """Times stretches of the run, and after each as many bare steps."""

  def __init__(self, run: RunContext, steps: int, rounds: int):
    self._steps, self._rounds = steps, rounds
    self._bare_step = parallel.map_train_step(
      functools.partial(train_step, parts=run.parts)
    )
    _, self._batch = next(
      input_pipeline.train_batches(run.config, run.dataset, 0, 1)
    )
    self._bare_state: TrainState | None = None
    self._count, self._started = 0, 0.0
    self.loop_seconds: list[float] = []
    self.bare_seconds: list[float] = []

  def __call__(
    self, step: int, state: TrainState, metrics: Any, is_last: bool
  ) -> None:
    """Start or end a stretch after its first or last step."""
    del step, is_last
    self._count += 1
    if self._bare_state is None:
      self._bare_state = parallel.replicate(state)  # a copy, to be donated
      self._take_bare_steps(1)  # compile
    if self._count == _LEAD:
      jax.block_until_ready(metrics)
      self._started = time.perf_counter()
    elif self._count == _LEAD + self._steps:
      jax.block_until_ready(metrics)
      self.loop_seconds.append(time.perf_counter() - self._started)
      timing.wait_until_idle()
      self.bare_seconds.append(self._take_bare_steps(self._steps))
      if len(self.loop_seconds) == self._rounds:
        raise _AllMeasuredError
      self._count = 0

  def _take_bare_steps(self, count: int) -> float:
    started, before, metrics = time.perf_counter(), None, None
    for _ in range(count):
      # As near to the devices as the loop: virtual ones of a CPU may block each
      # other with 32 steps in flight.
      jax.block_until_ready(before)
      before = metrics
      self._bare_state, metrics = self._bare_step(self._bare_state, self._batch)
    jax.block_until_ready(metrics)
    return time.perf_counter() - started
