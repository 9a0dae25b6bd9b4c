"""The whole life of a run in a bucket, with the clients that users have."""

import json
import socket
import time

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)

from sam_jax import paths
from sam_jax.analysis import trained_run
from sam_jax.config import cli
from sam_jax.config.schema import ConfigError
from sam_jax.datasets.labels import read_labels
from sam_jax.evaluation import data
from sam_jax.pretrained import flax_files, formats
from sam_jax.reports import run_records
from sam_jax.runs import launch, sweep
from sam_jax.runs.checkpoints import SavedCheckpoints
from sam_jax.training import build, hooks, input_pipeline, loop
from tests import tiny
from tests.bucket import ROOT
from tests.in_process import run_script
from tests.processes import finish, read_metrics, start_training
from tests.test_train import SMALL

RUN = f"{ROOT}/runs/a"
HOST = socket.gethostname()


class Killed(BaseException):
  """Ends a run in place of a signal that would end this process."""


@pytest.fixture
def tiny_run(monkeypatch):
  """Train a tiny network; a workdir is all that it needs."""
  monkeypatch.setattr(build, "model", tiny.create_model)
  for module in (input_pipeline, trained_run, data):
    monkeypatch.setattr(module, "create_dataset", tiny.create_dataset)

  def train(path, **fields):
    config = tiny.create_config()
    config.num_epochs, config.log_every_steps = 2, 1
    config.keep_checkpoints_at_epochs = (1,)
    config.update(fields)
    return loop.train_and_evaluate(config, path)

  return train


def download(bucket, prefix, directory):
  """Copy the files below a prefix to a local directory."""
  for name in bucket.names(f"{prefix}/"):
    file = directory / name.removeprefix(f"{prefix}/")
    if not name.endswith("/"):
      file.parent.mkdir(parents=True, exist_ok=True)
      if not file.is_dir():
        file.write_bytes(bucket.read(name))


def points(directory):
  """Return (tag, step, value) of every scalar in TensorBoard's events."""
  events = EventAccumulator(str(directory)).Reload()
  return [
    (tag, point.step, point.value)
    for tag in events.Tags()["scalars"]
    for point in events.Scalars(tag)
    if "per_second" not in tag
  ]


def check_equal(bucket, local, tmp_path):
  """Compare the run in the bucket with an undisturbed local one."""
  copy = tmp_path / "copy"
  download(bucket, "runs/a", copy)
  assert read_metrics(copy) == read_metrics(local)
  assert points(copy) == points(local)
  for name in ("result.json", "config.json"):
    expected = json.loads((local / name).read_text())
    assert json.loads((copy / name).read_text()) == expected
  steps = SavedCheckpoints(f"{RUN}/checkpoints").steps()
  assert steps == SavedCheckpoints(local / "checkpoints").steps()
  for step in steps:
    assert checksum(paths.resolve(RUN), step) == checksum(local, step)


def checksum(directory, step):
  """Return the checksum of every bit of a checkpoint."""
  files = (directory / "checkpoints" / str(step) / "checksum").iterdir()
  (file,) = [f for f in files if "metadata" in f.name]
  return json.loads(file.read_text())["crc32"]


def test_run_that_is_killed_equals_a_local_one(
  bucket, tiny_run, tmp_path, monkeypatch
):
  result = tiny_run(tmp_path / "local", num_epochs=4)
  save = hooks.SaveCheckpoint.__call__

  def save_and_die(self, done, *arguments):
    if done == 14:
      raise Killed
    save(self, done, *arguments)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(hooks.SaveCheckpoint, "__call__", save_and_die)
    tiny_run(RUN, num_epochs=4)
  # A checkpoint was being written, and the owner of the lock did not say bye.
  bucket.write("runs/a/checkpoints/13/_CHECKPOINT_METADATA", b"{}")
  bucket.write("runs/a/.lock", f"process 4194305 on {HOST} (0)".encode())
  assert tiny_run(RUN, num_epochs=4) == result

  check_equal(bucket, tmp_path / "local", tmp_path)
  steps = {name.split("/")[3] for name in bucket.names("runs/a/checkpoints/")}
  assert {int(step) for step in steps if step} == {4, 12, 16}
  assert tiny_run(RUN, num_epochs=4) is None  # finished
  # Nothing is renamed, which would copy it and delete it.
  assert not [r for r in bucket.requests if "rewriteTo" in r or "moveTo" in r]


@pytest.mark.long
def test_process_that_is_killed_resumes_to_the_same_bits(
  bucket, start, digits_dir, tmp_path
):
  """The network, the data and the signals are real: it takes three starts."""
  bucket.upload(digits_dir, "tfds")
  flags = (*SMALL, "--config.eval_on_train=False")
  code, said = finish(start(*flags, workdir="undisturbed"))
  assert code == 0, said
  arguments = (RUN, f"{ROOT}/tfds", *flags)
  killed = start_training(*arguments)
  try:
    while not bucket.names("runs/a/checkpoints/12/"):  # it is being written
      assert killed.poll() is None, killed.communicate()
      time.sleep(0.01)
  finally:
    killed.kill()
  killed.communicate()
  assert "runs/a/.lock" in bucket.objects
  code, said = finish(start_training(*arguments))
  assert code == 0, said
  config = json.loads(bucket.read("runs/a/config.json"))
  local = json.loads((tmp_path / "undisturbed/config.json").read_text())
  local["dataset"]["data_dir"] = config["dataset"]["data_dir"]
  (tmp_path / "undisturbed/config.json").write_text(json.dumps(local))
  check_equal(bucket, tmp_path / "undisturbed", tmp_path)
  assert not bucket.names("runs/a/.lock")


def test_hiccups_do_not_end_a_run(bucket, tiny_run, tmp_path):
  tiny_run(tmp_path / "local")
  for method, path in (
    ("GET", "alt=media"),
    ("GET", r"/o\?.*prefix=runs/a/checkpoints"),
    ("POST", "manifest"),
    ("POST", "multipart"),
    ("DELETE", "checkpoints/"),
  ):
    bucket.fail(503, method=method, path=path, times=1)
  tiny_run(RUN)
  assert all(fault.times == 0 for fault in bucket.faults)
  check_equal(bucket, tmp_path / "local", tmp_path)


def test_commands_read_a_run_in_the_bucket(bucket, tiny_run, tmp_path, capsys):
  tiny_run(RUN)
  before = dict(bucket.objects)
  run_script("relabel", f"--workdir={RUN}", f"--output={ROOT}/labels/a.npy")
  labels = read_labels(f"{ROOT}/labels/a.npy", 64, 10)
  loaded = trained_run.load_run(RUN)
  np.testing.assert_array_equal(labels, trained_run.predicted_labels(loaded))
  assert set(bucket.objects) - set(before) == {"labels/a.npy"}
  run_script("evaluate", f"--workdir={RUN}", f"--output={tmp_path}/evaluation")
  run_script("evaluate", f"--workdir={RUN}")
  local = (tmp_path / "evaluation/evaluation.json").read_bytes()
  assert bucket.read("runs/a/evaluation/digits_test_8/evaluation.json") == local

  run_script(
    *("analyze", "sharpness", f"--workdir={RUN}@4", f"--output={tmp_path}"),
    *("--num_examples=16", "--batch_size=16", "--rho=0.05", "--m=16"),
  )
  assert "step 4" in capsys.readouterr().out
  cache = json.loads(bucket.read("runs/a/analysis/sharpness.json"))
  assert all(entry["result"] is not None for entry in cache["results"])
  assert (tmp_path / "sharpness.png").exists()
  # Readers leave everything as it was.
  assert {name: bucket.objects.get(name) for name in before} == before


def test_report_of_runs_in_the_bucket(bucket, tiny_run, capsys):
  result = tiny_run(RUN)
  records, problems = run_records.read_runs([f"{ROOT}/runs"])
  assert [record.result for record in records] == [result] and not problems
  assert records[0].state == "finished"
  run_script("report", f"--root={ROOT}/runs")
  assert f"{100 * result['error_rate']:.2f}" in capsys.readouterr().out


def test_run_starts_from_weights_in_the_bucket(bucket, tiny_run):
  images = np.zeros((1, 8, 8, 1))
  variables = tiny.create_model().init(jax.random.key(0), images, train=False)
  bucket.write("weights", b"".join(flax_files.serialize(variables)))
  read = formats.read_checkpoint(f"{ROOT}/weights")
  assert len(read.params) == 4
  assert tiny_run(RUN, pretrained=f"{ROOT}/weights", num_epochs=1)
  with pytest.raises(ConfigError, match=f"{ROOT}/others"):
    tiny_run(f"{ROOT}/runs/b", pretrained=f"{ROOT}/others")


def test_sweep_in_the_bucket(bucket, tiny_run, monkeypatch):
  class InThisProcess:
    """A process that trains a tiny network at once."""

    def __init__(self, command, **_):
      path = next(a for a in command if a.startswith("--workdir="))
      config = cli.read_config([a for a in command if "--config" in a])
      loop.train_and_evaluate(config, path.removeprefix("--workdir="))

    def wait(self):
      return 0

  monkeypatch.setattr(launch.subprocess, "Popen", InThisProcess)
  said = []
  for _ in range(2):
    monkeypatch.setattr("builtins.print", lambda line, **_: said.append(line))
    run_script(
      *("sweep", "--config=configs/digits.py", f"--root={ROOT}/runs"),
      *("--grid=seed=0,1", "--", "--config.num_epochs=1"),
      *("--config.batch_size=16", "--config.sam.m=2"),
    )
  assert sweep.read_names(f"{ROOT}/runs") == ["seed=0", "seed=1"]
  assert "[1/2] seed=0: finished before" in said[-3]
  assert said[-1] == "2 of 2 runs are finished."
