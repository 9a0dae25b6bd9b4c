"""Runs that one program trains: each is what it is alone."""

import errno
import itertools
import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)

from sam_jax.config import schema
from sam_jax.runs import compilation, preemption
from sam_jax.runs import logging as run_logging
from sam_jax.runs.checkpoints import Checkpoints, SavedCheckpoints
from sam_jax.runs.logging import MetricsWriter
from sam_jax.runs.workdir import WorkdirLostError
from sam_jax.training import (
  build,
  hooks,
  input_pipeline,
  loop,
  programs_of_runs,
  together,
)
from sam_jax.training.hooks import DivergedError
from sam_jax.training.throughput import Stopwatch, Throughput
from tests import tiny
from tests.in_process import run_script
from tests.processes import read_metrics
from tests.training.test_hooks import Clock
from tests.training.test_loop import CountHook

STEPS_PER_EPOCH, TOTAL = 4, 8
RUNS = {
  "a": {},
  "b": {"seed": 1, "sam.rho": 0.2, "label_smoothing": 0.2},
  "c": {"optimizer.learning_rate": 0.01, "optimizer.weight_decay": 0.1},
}
DIVERGING = {"optimizer.learning_rate": 1e30}


def make_config(**fields):
  config = tiny.create_config()
  config.num_epochs, config.log_every_steps = 2, 3
  config.eval_on_train, config.augment.policy = True, "basic"
  config.label_smoothing = 0.1
  schema.update(config, fields)
  return config


def create_dataset(config):
  """Return random digits in the order of the seed."""
  return tiny.create_dataset(config, seed=config.seed)


@pytest.fixture(scope="module", autouse=True)
def tiny_network_on_one_device():
  """Use one device: on several, their sums may be rounded in another order."""
  device = jax.devices()[0]
  # Dropout makes the seed decide something in the step, too.
  network = tiny.Perceptron(dropout_rate=0.1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "device_count", lambda: 1)
    patch.setattr(jax, "devices", lambda: [device])
    patch.setattr(build, "model", lambda *_: network)
    patch.setattr(input_pipeline, "create_dataset", create_dataset)
    yield


def train_alone(root, name, **fields):
  config = make_config(**RUNS.get(name, {}) | fields)
  return loop.train_and_evaluate(config, root / name, [CountHook])


def train_together(root, runs=RUNS):
  """Train runs; return the errors of those that failed."""
  return together.train_and_evaluate(
    [(make_config(**fields), root / name) for name, fields in runs.items()],
    [CountHook],
  )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Return the directory of runs that were trained alone."""
  root = tmp_path_factory.mktemp("alone")
  for name in RUNS:
    train_alone(root, name)
  return root


def content(workdir):
  """Return all that a run writes, but times and older checkpoints."""
  state = SavedCheckpoints(workdir / "checkpoints")
  lines = read_metrics(workdir)
  for line in lines:
    line.pop("train/images_per_second", None)
  events = EventAccumulator(str(workdir)).Reload()
  hparams = events.summary_metadata["_hparams_/session_start_info"]
  session = hparams.plugin_data.content
  return {
    "files": sorted(
      path.name for path in workdir.iterdir() if "tfevents" not in path.name
    ),
    "config": json.loads((workdir / "config.json").read_text()),
    "result": json.loads((workdir / "result.json").read_text()),
    "metrics": lines,
    "images": [
      image.encoded_image_string
      for image in events.Images("train/augmented_images")
    ],
    "scalars": {
      tag: [(point.step, point.value) for point in events.Scalars(tag)]
      for tag in events.Tags()["scalars"]
      if tag != "train/images_per_second"
    },
    "hparams": session[: session.index(b"num_epochs")],
    "state": jax.tree.map(np.asarray, state.restore_tree(TOTAL)),
    "step": state.steps()[-1],
  }


def assert_same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
  """Compare up to the rounding of programs that are compiled differently."""

  def compare(x, y):
    if isinstance(x, str | bytes):
      assert x == y
    else:
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)

  jax.tree.map(compare, found, expected)


def assert_as_alone(root, alone, names=tuple(RUNS)):
  for name in names:
    assert_close(content(root / name), content(alone / name))


def stop_at(monkeypatch, step, batches=None):
  """Ask runs to stop after a step, or after batches of the evaluation then."""
  calls, number = itertools.count(1), step + (batches or 0)
  monkeypatch.setattr(
    preemption.StopRequest, "is_due", lambda _: next(calls) >= number
  )
  if batches is None:
    monkeypatch.setattr(preemption.StopRequest, "check", lambda _: None)


def steps(workdir):
  return SavedCheckpoints(workdir / "checkpoints").steps()


@pytest.fixture(scope="module")
def three_together(tmp_path_factory):
  """Return the directory of runs that were trained together."""
  root = tmp_path_factory.mktemp("together")
  assert train_together(root) == []
  return root


def test_every_run_writes_what_it_writes_alone(alone, three_together):
  assert_as_alone(three_together, alone)
  assert not np.array_equal(
    *(content(alone / name)["metrics"][0]["train/loss"] for name in "ab")
  )


def test_a_run_does_not_depend_on_the_others(three_together, tmp_path):
  two = {name: RUNS[name] for name in ("c", "a")}
  with pytest.MonkeyPatch.context() as patch:
    stop_at(patch, 5)
    assert train_together(tmp_path, two) == []
  assert train_together(tmp_path, two) == []
  for name in two:
    assert_same(content(tmp_path / name), content(three_together / name))


@pytest.mark.parametrize(("step", "batches"), [(5, None), (4, 2)])
def test_runs_stop_together_and_resume_together_or_alone(
  step, batches, alone, tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    stop_at(patch, step, batches)
    assert train_together(tmp_path) == []
  assert [steps(tmp_path / name)[-1] for name in RUNS] == [step] * 3
  assert not list(tmp_path.glob("*/result.json"))
  train_alone(tmp_path, "b")
  assert train_together(tmp_path) == []  # b is finished
  assert_as_alone(tmp_path, alone)


def test_runs_at_different_steps_meet(alone, tmp_path, monkeypatch, caplog):
  caplog.set_level("INFO")
  for name, step in (("a", 4), ("b", 6)):
    with monkeypatch.context() as patch:
      stop_at(patch, step)
      train_alone(tmp_path, name)
  with monkeypatch.context() as patch:  # while c catches up with a
    stop_at(patch, 2)
    assert train_together(tmp_path) == []
  assert [steps(tmp_path / name)[-1] for name in RUNS] == [4, 6, 2]
  assert train_together(tmp_path) == []
  assert_as_alone(tmp_path, alone)


class Killed(BaseException):
  """Ends a run in place of a signal that would end this process."""


def test_a_kill_between_the_checkpoints_of_two_runs(
  alone, tmp_path, monkeypatch
):
  save = Checkpoints.save

  def save_or_die(checkpoints, state):
    if state.step == STEPS_PER_EPOCH and saved:
      raise Killed
    saved.append(state)
    save(checkpoints, state)

  saved = []
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(Checkpoints, "save", save_or_die)
    train_together(tmp_path)
  assert [steps(tmp_path / name) for name in RUNS] == [[4], [], []]
  assert train_together(tmp_path) == []
  assert_as_alone(tmp_path, alone)


def test_a_run_that_diverges_ends_alone(alone, tmp_path, monkeypatch):
  errors = train_together(tmp_path, {"d": DIVERGING, **RUNS})
  assert_as_alone(tmp_path, alone)
  (error,), other = errors, tmp_path / "other"
  monkeypatch.setitem(RUNS, "d", DIVERGING)
  with pytest.raises(
    DivergedError, match="Loss or gradient is not finite"
  ) as e:
    train_alone(other, "d")
  assert (type(error), str(error)) == (DivergedError, str(e.value))
  assert_close(*(read_metrics(root / "d") for root in (tmp_path, other)))
  assert not (tmp_path / "d/result.json").exists()
  # The same command tries it again, and nothing else.
  assert [str(e) for e in train_together(tmp_path, {"d": DIVERGING})] == [
    str(error)
  ]


def test_a_full_disk_or_another_run_in_a_workdir_ends_one_run(
  alone, tmp_path, monkeypatch
):
  write = MetricsWriter.scalars

  def write_or_fail(writer, step, prefix, values):
    if writer is writers.get("b") and step == STEPS_PER_EPOCH:
      raise OSError(errno.ENOSPC, "No space left", str(tmp_path / "b/metrics"))
    write(writer, step, prefix, values)

  writers = {}

  def open_writer(config, workdir, *arguments):
    writers[workdir.name] = hooks.open_writer(config, workdir, *arguments)
    return writers[workdir.name]

  train_alone(tmp_path, "a", seed=7)
  with monkeypatch.context() as patch:
    patch.setattr(together, "open_writer", open_writer)
    patch.setattr(MetricsWriter, "scalars", write_or_fail)
    other, lost = train_together(tmp_path)
  assert "seed was 7 and is now 0" in str(other)
  assert isinstance(lost, WorkdirLostError)
  assert "No space left" in str(lost)
  assert_as_alone(tmp_path, alone, ["c"])
  shutil.rmtree(tmp_path / "a")
  assert train_together(tmp_path) == []
  assert_as_alone(tmp_path, alone)


def test_accelerators_train_all_runs_at_once(alone, tmp_path, monkeypatch):
  """Batched operations round sums in another order, and do nothing else."""
  shapes = []

  def over_runs(fn, *trees, unroll=False):
    del unroll  # of CPUs
    shapes.append({x.shape[0] for x in jax.tree.leaves(trees)})
    return jax.vmap(fn)(*trees)

  monkeypatch.setattr(programs_of_runs, "over_runs", over_runs)
  assert train_together(tmp_path) == []
  assert all(shape == {3} for shape in shapes)
  for name in RUNS:
    found, expected = content(tmp_path / name), content(alone / name)
    assert_close(found, expected)


def command(capsys, *runs):
  """Return exit code and errors of the command for flags of runs."""
  common = "--config=configs/digits.py:sam --config.compilation_cache_dir="
  common += " --config.batch_size=16 --config.sam.m=16 --config.num_epochs=1"
  with pytest.raises(SystemExit) as end:
    run_script("train_together", *(f"--run={common} {run}" for run in runs))
  return end.value.code, capsys.readouterr().err


def test_command_trains_runs_and_fails_as_they_do(tmp_path, capsys):
  a, b = f"--workdir={tmp_path}/a", f"--workdir={tmp_path}/b"
  code, _ = command(capsys, a, f"{b} --config.optimizer.learning_rate=1e30")
  assert code == 1
  assert json.loads((tmp_path / "a/result.json").read_text())["step"] == 4
  assert not (tmp_path / "b/result.json").exists()
  assert command(capsys, a)[0] == 0
  assert command(capsys, f"{a} --config.seed=1")[0] == 2  # another config


def test_command_refuses_what_one_program_cannot_train(tmp_path, capsys):
  a, b = f"--workdir={tmp_path}/a", f"--workdir={tmp_path}/b"
  for runs, message in (
    ((a, f"{b} --config.sam.rho=0"), "These runs need several programs: "),
    ((a, f"{b} --config.sam.roh=1"), "Unknown field --config.sam.roh"),
    ((a, ""), "must have --workdir, --config and fields"),
    ((a, "--workdir='b"), "can't be split: No closing quotation"),
    ((), "--run is missing, see --help."),
  ):
    code, error = command(capsys, *runs)
    (line,) = error.splitlines()
    assert (code, line[:7]) == (2, "error: ")
    assert message in line
  assert not list(tmp_path.iterdir())


def test_lines_on_the_console_name_their_run(tmp_path, capsys):
  package = logging.getLogger("sam_jax")
  handlers = list(package.handlers)
  run_logging.show_on_stderr()
  try:
    train_together(tmp_path, {"a": RUNS["a"], "d": DIVERGING})
  finally:
    package.handlers = handlers
    package.propagate = True
  said = capsys.readouterr().err
  assert re.search(r"\d  \[a\]  step 8/8  epoch 2\.0  test  loss", said)
  assert re.search(r"\d  \[d\]  error: Loss or gradient is not finite", said)


def test_throughput_of_a_run_leaves_out_evaluations_of_the_others():
  clock = Clock()
  stopwatch = Stopwatch(clock)
  first, second = (Throughput(10, 100, stopwatch) for _ in range(2))
  first.start(1)
  second.start(1)
  clock.time += 2
  with stopwatch.paused():  # the first run evaluates
    clock.time += 50
  assert first.read(3) == (10, 97)
  clock.time += 3  # the first run waits for later steps and logs them
  assert second.read(3) == (10, 97)


def test_group_after_group_leaves_no_programs(tmp_path, monkeypatch):
  monkeypatch.setattr(compilation, "_MANY_MAPPINGS", 0)
  compilation.free_programs_if_many()
  programs = jax.devices()[0].client.live_executables
  before = len(programs())  # those that other tests keep
  train_together(tmp_path, {"a": {"num_epochs": 1}})
  assert len(programs()) <= before
