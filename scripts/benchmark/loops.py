"""What the training loop loses against the bare step."""

import contextlib
import tempfile
import time
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax.config.schema import validate_config
from sam_jax.runs import workdir as workdir_lib
from sam_jax.training import loop
from scripts.benchmark.timing import ratio, spread

# Steps of the loop, after every pause, that use up what was prepared meanwhile.
_LEAD = 10


def measure_loop(
  config: ConfigDict, steps: int, rounds: int
) -> list[dict[str, Any]]:
  """Times stretches of a real run, and as many bare steps after each.

  The loop draws batches, augments them, logs and saves as the config says. The
  bare steps repeat one batch that is on the devices already, once the loop's
  work in the background is done. Evaluation is work of its own and left out.

  Args:
    config: Of the run; its length is set to what is needed.
    steps: Steps of a stretch.
    rounds: Number of stretches.

  Returns:
    A row of both: images a second, and the loop's over the bare step's. Above
    1 there is no loss that could be measured.

  Raises:
    ConfigError, DatasetError: The run can't start.
  """
  validate_config(config, jax.device_count())
  config = config.copy_and_resolve_references()
  dataset = loop.create_dataset(config)
  config.num_epochs = -(-(_LEAD + steps) * rounds // dataset.steps_per_epoch)
  config.eval_every_epochs = config.num_epochs + 1
  config.analysis.every_epochs = 0
  with (
    tempfile.TemporaryDirectory() as directory,
    workdir_lib.claim(epath.Path(directory), config) as workdir,
  ):
    run = loop.Run(config, workdir, dataset)
    clock = _Clock(run, steps, rounds)
    with contextlib.suppress(_EnoughError):
      run.train()
  images = config.batch_size * steps
  return [
    {
      "loop images/s": spread([images / s for s in clock.loop_seconds]),
      "bare images/s": spread([images / s for s in clock.bare_seconds]),
      "loop over bare": ratio(clock.bare_seconds, clock.loop_seconds),
    }
  ]


def wait_until_idle(seconds: float = 30.0) -> None:
  """Waits until this process computes nothing: saves, reads ahead, decodes.

  Args:
    seconds: How long at most.
  """
  deadline = time.perf_counter() + seconds
  while time.perf_counter() < deadline:
    before = time.process_time()
    time.sleep(0.1)
    if time.process_time() - before < 0.01:
      return


class _EnoughError(Exception):
  """All stretches are measured."""


class _Clock:
  """Takes the place of a run's step, and stops the time of every stretch."""

  def __init__(self, run: loop.Run, steps: int, rounds: int):
    self._step, self._steps, self._rounds = run.train_step, steps, rounds
    self._count, self._started, self._bare_state = 0, 0.0, None
    self.loop_seconds, self.bare_seconds = [], []
    run.train_step = self

  def __call__(self, state: Any, batch: Any) -> Any:
    """Takes a step of the run; at the end of a stretch also the bare ones."""
    if self._bare_state is None:
      self._bare_state = jax.tree.map(lambda x: x.copy(), state)
    state, metrics = self._step(state, batch)
    self._count += 1
    if self._count == _LEAD:
      jax.block_until_ready(metrics)
      self._started = time.perf_counter()
    elif self._count == _LEAD + self._steps:
      jax.block_until_ready(metrics)
      self.loop_seconds.append(time.perf_counter() - self._started)
      wait_until_idle()
      self.bare_seconds.append(self._take_bare_steps(batch))
      if len(self.loop_seconds) == self._rounds:
        raise _EnoughError
      self._count = 0
    return state, metrics

  def _take_bare_steps(self, batch: Any) -> float:
    started = time.perf_counter()
    for _ in range(self._steps):
      self._bare_state, metrics = self._step(self._bare_state, batch)
    jax.block_until_ready(metrics)
    return time.perf_counter() - started
