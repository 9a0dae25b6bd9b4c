"""Actions around steps: when lines are written, and their content."""

import logging
import math
import types

import numpy as np
import pytest

from sam_jax.config.schema import default_config
from sam_jax.training import hooks
from sam_jax.training.hooks import DivergedError, LogMetrics
from sam_jax.training.throughput import Stopwatch, Throughput


class Clock:
  """A clock that moves when it is told to."""

  def __init__(self):
    self.time = 1000.0

  def __call__(self):
    return self.time


def test_throughput_is_that_of_training_alone():
  """10,000 images, 78 steps an epoch, a line every 50, 20 s of evaluation.

  A step takes 0.32 s: 400 images per second throughout.
  """
  clock = Clock()
  total = 5 * 78
  stopwatch = Stopwatch(clock)
  throughput = Throughput(128, total, stopwatch)
  clock.time += 60  # compilation
  throughput.start(1)
  for step in range(2, total + 1):
    clock.time += 0.32
    if step % 50 == 0:
      rate, seconds_left = throughput.read(step)
      assert rate == pytest.approx(400)
      assert seconds_left == pytest.approx(0.32 * (total - step))
    if step % 78 == 0:
      with stopwatch.paused():
        clock.time += 20


def test_throughput_is_unknown_before_there_is_a_step():
  clock = Clock()
  stopwatch = Stopwatch(clock)
  throughput = Throughput(128, 10, stopwatch)
  with stopwatch.paused():  # before the first step
    clock.time += 5
  throughput.start(1)
  assert all(map(math.isnan, throughput.read(1)))
  clock.time += 2
  assert throughput.read(3) == (128, 7)  # two steps in 2 s; 7 are left


class Writer:
  """Keeps what it is given."""

  def __init__(self):
    self.lines = []

  def scalars(self, step, prefix, values):
    self.lines.append((step, prefix, dict(values)))

  def flush(self):
    pass


class SlowCheckpoints:
  """Checkpoints of a run; one is complete after a wait."""

  def __init__(self):
    self._steps = []

  def wait(self):
    self._steps = [4]

  def steps(self):
    return self._steps


def make_run(total_epochs=2, log_every_steps=3):
  config = default_config()
  config.num_epochs = total_epochs
  config.log_every_steps = log_every_steps
  return hooks.RunContext(
    config,
    None,
    types.SimpleNamespace(steps_per_epoch=5),
    None,
    SlowCheckpoints(),
    Writer(),
  )


def metrics_of(step, diverged_at=-1):
  values = {"loss": 10.0 - step, "learning_rate": 0.1}
  return {k: np.float32(v) for k, v in values.items()} | {
    "diverged_at": np.int32(diverged_at)
  }


def test_lines_come_as_soon_as_their_step_is_surely_done():
  run = make_run()
  log, seen = LogMetrics(run), []
  for step in range(1, 11):
    log(step, None, metrics_of(step), step == 10)
    seen.append([line[0] for line in run.writer.lines])
  # Two steps may be in flight; the end waits for all. 10 is the last step.
  assert seen[3:] == [
    *([], [3], [3], [3], [3, 6]),
    *([3, 6], [3, 6, 9, 10]),
  ]
  for step, prefix, values in run.writer.lines:
    assert prefix == "train"
    assert values["loss"] == 10.0 - step
    assert "diverged_at" not in values


def test_a_pause_writes_the_lines_before_it():
  run = make_run()
  log = LogMetrics(run)
  for step in range(1, 7):
    log(step, None, metrics_of(step), False)
  assert [line[0] for line in run.writer.lines] == [3]
  with log.paused():
    assert [line[0] for line in run.writer.lines] == [3, 6]


def test_divergence_is_noticed_at_a_line_and_before_a_checkpoint():
  run = make_run()
  log = LogMetrics(run)
  log(1, None, metrics_of(1, diverged_at=0), False)
  message = r"since step 0 \(noticed at 1\)"
  with pytest.raises(DivergedError, match=message), log.paused():
    pytest.fail("nothing may be saved now")
  log = LogMetrics(make_run())
  with pytest.raises(DivergedError, match=r"Last checkpoint: step 4\. Try a"):
    for step in range(1, 6):
      log(step, None, metrics_of(step, diverged_at=1), False)


def test_console_line_has_the_epoch_and_the_loss(caplog):
  run = make_run()
  with caplog.at_level(logging.INFO, logger="sam_jax"):
    run.write(7, "test", {"loss": 0.25, "error_rate": 0.5})
  (record,) = caplog.records
  assert record.getMessage() == (
    "step  7/10  epoch 1.4  test  loss 0.2500  error 50.00%"
  )
