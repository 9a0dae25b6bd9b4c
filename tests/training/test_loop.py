"""A run that is stopped or killed while it measures loses no measurement."""

import itertools
import shutil

import jax
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)

from sam_jax.runs import compilation, preemption
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.runs.logging import MetricsWriter
from sam_jax.runs.workdir import WorkdirLostError
from sam_jax.training import build, hooks, input_pipeline, loop
from tests import tiny
from tests.processes import read_metrics

STEPS_PER_EPOCH = 4


class Killed(BaseException):
  """Ends a run in place of a signal that would end this process."""


class CountHook:
  """A measurement of a user, which does not look at the logs."""

  def __init__(self, run, log):
    self._run, self._log = run, log

  def __call__(self, step, state, metrics, is_last):
    if self._run.is_due(step, 1, is_last):
      with self._log.paused():
        self._run.write(step, "count", {"steps": float(state.step)})


def train(workdir, **fields):
  """Train for two epochs; return the result."""
  config = tiny.create_config()
  config.num_epochs, config.log_every_steps = 2, 3
  config.eval_on_train = True
  config.sam.rho = 0.0
  config.update(fields)
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(build, "model", tiny.create_model)
    monkeypatch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
    return loop.train_and_evaluate(config, workdir, [CountHook])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """Return the result and the metrics of a run that was not disturbed."""
  workdir = tmp_path_factory.mktemp("undisturbed")
  return train(workdir), read_metrics(workdir)


def groups(metrics):
  """Return the step and the group of scalars of every line."""
  return [
    (line["step"], tag.partition("/")[0])
    for line in metrics
    for tag in list(line)[1:2]
  ]


MEASURED = ("test", "clean_train", "count")


def test_undisturbed_run_measures_after_every_epoch(undisturbed):
  result, metrics = undisturbed
  assert result["step"] == 2 * STEPS_PER_EPOCH
  assert groups(metrics) == [
    (3, "train"),
    *((4, name) for name in MEASURED),
    (6, "train"),
    (8, "train"),
    *((8, name) for name in MEASURED),
  ]


def check_resumed(workdir, undisturbed):
  """Check that a run ends as an undisturbed one."""
  assert (train(workdir), read_metrics(workdir)) == undisturbed
  events = EventAccumulator(str(workdir)).Reload()
  for tag in ("test/error_rate", "clean_train/loss", "count/steps"):
    assert [point.step for point in events.Scalars(tag)] == [4, 8]
  steps = [point.step for point in events.Scalars("train/loss")]
  assert steps == [3, 6, 8]


# Measurements that are logged before the kill.
KILLS = {
  "in the evaluation on training data": 1,
  "in the last evaluation": 3,
  "before the result": 5,
}


@pytest.mark.parametrize("when", KILLS)
def test_measurements_that_a_kill_prevents_are_made_later(
  when, undisturbed, tmp_path, monkeypatch
):
  write, written = hooks.RunContext.write, []

  def write_or_die(run, step, prefix, values, **line):
    if prefix in MEASURED:
      if len(written) == KILLS[when]:
        raise Killed
      written.append(prefix)
    write(run, step, prefix, values, **line)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(hooks.RunContext, "write", write_or_die)
    train(tmp_path)
  found = [name for _, name in groups(read_metrics(tmp_path))]
  assert sum(name in MEASURED for name in found) == KILLS[when]
  check_resumed(tmp_path, undisturbed)


def stop_at_call(patch, number):
  """Ask runs to stop when they ask for the n-th time."""
  calls = itertools.count(1)
  patch.setattr(
    preemption.StopRequest, "is_due", lambda _: next(calls) >= number
  )


# Each of two epochs has four steps, and evaluates on four batches twice.
IN_MEASUREMENTS = {
  "test": (4 + 2, 4),
  "clean_train": (4 + 6, 4),
  "count": (4 + 8 + 1, 4),
  "last test": (4 + 9 + 4 + 2, 8),
}


@pytest.mark.parametrize("when", IN_MEASUREMENTS)
def test_a_run_that_stops_in_a_measurement_saves_and_makes_it_later(
  when, undisturbed, tmp_path, monkeypatch, caplog
):
  """Its checkpoints are otherwise those of later epochs."""
  number, step = IN_MEASUREMENTS[when]
  count = CountHook.__call__

  def check_and_count(self, *args):
    if args[0] % STEPS_PER_EPOCH == 0:
      self._run.check_stop()
    count(self, *args)

  monkeypatch.setattr(CountHook, "__call__", check_and_count)
  with monkeypatch.context() as patch:
    patch.setattr(hooks.SaveCheckpoint, "_is_due", lambda *_: False)
    stop_at_call(patch, number)
    assert train(tmp_path) is None
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(step)]
  assert not (tmp_path / "result.json").exists()
  found = [line[1] for line in groups(read_metrics(tmp_path))]
  assert found.count("count") == (when == "last test")
  check_resumed(tmp_path, undisturbed)


def test_a_state_is_saved_before_measurements_that_compile(tmp_path):
  train(tmp_path, checkpoint_every_epochs=100, num_epochs=4)
  saved = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert saved == {"4", "16"}  # the first evaluation, and the end


def test_a_run_that_stops_measures_when_it_resumes(
  undisturbed, tmp_path, monkeypatch, caplog
):
  with monkeypatch.context() as patch:
    stop_at_call(patch, STEPS_PER_EPOCH)
    assert train(tmp_path) is None
  assert groups(read_metrics(tmp_path)) == [(3, "train")]
  assert (tmp_path / "checkpoints" / str(STEPS_PER_EPOCH)).is_dir()
  lost = tmp_path / "copy"
  shutil.copytree(tmp_path, lost)
  check_resumed(tmp_path, undisturbed)
  assert "lines of train" not in caplog.text

  (lost / "metrics.jsonl").unlink()
  assert train(lost) == undisturbed[0]
  message = "metrics.jsonl lacks 1 of 1 line of train, those of steps 3:"
  assert caplog.text.count(message) == 1
  assert groups(read_metrics(lost))[0] == (4, "test")


def test_logs_are_published_before_every_checkpoint(tmp_path, monkeypatch):
  published, saved = [], []
  publish, save = MetricsWriter.publish, Checkpoints.save

  def note_and_publish(writer):
    publish(writer)
    published.append(groups(read_metrics(tmp_path))[-1])

  def note_and_save(checkpoints, state):
    saved.append((len(published), int(state.step)))
    save(checkpoints, state)

  monkeypatch.setattr(MetricsWriter, "publish", note_and_publish)
  monkeypatch.setattr(Checkpoints, "save", note_and_save)
  train(tmp_path)
  assert saved == [(1, 4), (2, 8)]
  assert published == [(3, "train"), (8, "train")]


@pytest.mark.parametrize("step", [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH])
def test_removed_files_end_the_run(step, tmp_path, monkeypatch):
  """Before the checkpoint of the next epoch, or after the last checkpoint."""

  def remove(hook, done, *_):
    if done == step:
      (tmp_path / "config.json").unlink()
      (tmp_path / "metrics.jsonl").unlink()

  monkeypatch.setattr(CountHook, "__call__", remove)
  with pytest.raises(WorkdirLostError, match="was removed while"):
    train(tmp_path)
  assert not (tmp_path / "result.json").exists()


def test_no_result_without_the_last_checkpoint(
  undisturbed, tmp_path, monkeypatch
):
  """The save goes on in the background while the run evaluates."""
  close = Checkpoints.close

  def close_and_fail(checkpoints):
    close(checkpoints)
    raise WorkdirLostError("the disk is full")

  with monkeypatch.context() as patch, pytest.raises(WorkdirLostError):
    patch.setattr(Checkpoints, "close", close_and_fail)
    train(tmp_path)
  assert not (tmp_path / "result.json").exists()
  check_resumed(tmp_path, undisturbed)


def test_run_after_run_leaves_no_programs(tmp_path, monkeypatch):
  """A process that holds too many of them dies."""
  monkeypatch.setattr(compilation, "_MANY_MAPPINGS", 0)
  compilation.free_programs_if_many()
  programs = jax.devices()[0].client.live_executables
  before = len(programs())  # those that other tests keep
  train(tmp_path, num_epochs=1)
  assert len(programs()) <= before
