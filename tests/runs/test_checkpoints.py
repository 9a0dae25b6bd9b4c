"""Checkpoints restore every bit, and damage is noticed."""

import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from sam_jax import paths
from sam_jax.config.schema import ConfigError
from sam_jax.runs import distributed
from sam_jax.runs.checkpoint_errors import DamagedCheckpointError
from sam_jax.runs.checkpoints import Checkpoints, SavedCheckpoints
from sam_jax.runs.workdir import WorkdirLostError
from sam_jax.sam import sharpness_aware
from sam_jax.training.state import Metrics, TrainState


@pytest.fixture
def reopen():
  """Open a directory of checkpoints, and close it after the test."""
  opened = []

  def reopen_directory(directory):
    opened.append(Checkpoints(directory))
    return opened[-1]

  yield reopen_directory
  for checkpoints in opened:
    checkpoints.close()


def make_state(step, ema=True):
  random = np.random.default_rng(step)
  params = {"kernel": random.normal(size=(64, 64)).astype(np.float32)}
  tx = optax.sgd(0.1, momentum=0.9)
  return TrainState(
    step=jnp.int32(step),
    params=params,
    batch_stats={},
    sam_state=sharpness_aware(0.1).init(params),
    opt_state=tx.update(params, tx.init(params), params)[1],
    ema={"params": params} if ema else {},
    metrics=Metrics.empty(("loss",)),
  )


def save(directory, steps, keep_steps=()):
  checkpoints = Checkpoints(directory, keep_steps)
  for step in steps:
    checkpoints.save(make_state(step))
  checkpoints.close()


def listing(directory):
  """Return every entry below a directory with what a change would change."""
  found = {}
  for path in sorted([directory, *directory.rglob("*")]):
    stat = path.lstat()
    content = path.read_bytes() if path.is_file() else None
    found[path] = stat.st_mode, stat.st_ino, stat.st_mtime_ns, content
  return found


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).dtype == np.asarray(y).dtype
    np.testing.assert_array_equal(x, y)


def flip_bytes(directory: pathlib.Path):
  """Damage the largest file below a directory."""
  largest = max(
    directory.rglob("*"), key=lambda f: f.is_file() * f.stat().st_size
  )
  data = bytearray(largest.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 64] = bytes(64)
  largest.write_bytes(bytes(data))


def truncate(directory: pathlib.Path):
  """Cut the largest file below a directory short."""
  largest = max(
    directory.rglob("*"), key=lambda f: f.is_file() * f.stat().st_size
  )
  largest.write_bytes(largest.read_bytes()[:100])


def garble_description(directory: pathlib.Path):
  """Change a letter in the names of the arrays of a checkpoint."""
  file = directory / "state/_METADATA"
  file.write_text(file.read_text().replace("key_type", "kex_type", 1))


def remove_metadata(directory: pathlib.Path):
  """Remove the files that describe the arrays of a checkpoint."""
  for file in directory.rglob("*"):
    if file.is_file() and file.name.startswith(("_", "manifest")):
      file.unlink()


@pytest.mark.parametrize("ema", [True, False])
def test_round_trip(reopen, tmp_path, ema):
  state = make_state(7, ema)
  checkpoints = reopen(tmp_path)
  checkpoints.save(state)
  checkpoints.close()
  restored = reopen(tmp_path).restore_latest(make_state(0, ema))
  assert_same(jax.device_get(state), restored)


def test_reads_a_checkpoint_from_before_a_metric(reopen, tmp_path):
  before = make_state(1)
  sums = before.metrics.add(jnp.int32(1), {"loss": jnp.float32(2.5)}, {})
  before = before.replace(metrics=sums)
  template = make_state(0).replace(metrics=Metrics.empty(("loss", "rho")))
  checkpoints = reopen(tmp_path)
  checkpoints.save(before)
  checkpoints.close()
  found = reopen(tmp_path).restore_latest(template)
  assert found.metrics.sums == {"loss": 2.5, "rho": 0}
  assert found.metrics.weights == {"loss": 1, "rho": 0}
  assert_same(found.replace(metrics=sums), before)
  with pytest.raises(ConfigError, match=r"nothing for .*ema"):
    reopen(tmp_path).restore_latest(template.replace(ema={"new": sums}))


def test_nothing_to_restore(reopen, tmp_path):
  assert reopen(tmp_path).restore_latest(make_state(0)) is None


def test_keeps_the_last_two_and_those_asked_for(reopen, tmp_path):
  save(tmp_path, [1, 2, 3, 4, 5], keep_steps=[2])
  assert reopen(tmp_path).steps() == [2, 4, 5]


@pytest.mark.parametrize(
  "damage", [flip_bytes, truncate, garble_description, remove_metadata]
)
def test_damage_falls_back_to_the_one_before(reopen, tmp_path, damage, caplog):
  save(tmp_path / "checkpoints", [1, 2])
  damage(tmp_path / "checkpoints" / "2")
  checkpoints = reopen(tmp_path / "checkpoints")
  restored = checkpoints.restore_latest(make_state(0))
  assert restored.step == 1
  assert str(tmp_path / "checkpoints" / "2") in caplog.text
  assert (tmp_path / "damaged_checkpoints" / "2").exists()
  checkpoints.save(make_state(2))  # the run reaches that step again
  checkpoints.close()
  latest = reopen(tmp_path / "checkpoints").restore_latest(make_state(0))
  assert_same(jax.device_get(make_state(2)), latest)


def test_other_processes_read_checkpoints_and_copy_no_state(
  tmp_path, monkeypatch
):
  save(tmp_path / "checkpoints", [1, 2])
  flip_bytes(tmp_path / "checkpoints/2")
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(  # process 0 moves the checkpoint in the meantime
    distributed,
    "wait_for_others",
    lambda _: shutil.move(tmp_path / "checkpoints/2", tmp_path / "aside"),
  )
  checkpoints = Checkpoints(tmp_path / "checkpoints")
  assert checkpoints.restore_latest(make_state(0)).step == 1
  before = listing(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(jax, "device_get", None)
    checkpoints.save(make_state(2))
  checkpoints.check()
  assert listing(tmp_path) == before


def test_damage_of_all_checkpoints_is_an_error(reopen, tmp_path):
  save(tmp_path / "checkpoints", [1, 2])
  for step in ("1", "2"):
    truncate(tmp_path / "checkpoints" / step)
  for _ in range(2):  # the next start must not train from scratch, either
    checkpoints = reopen(tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match="damaged_checkpoints"):
      checkpoints.restore_latest(make_state(0))


@pytest.mark.parametrize(
  "error",
  [
    OSError(5, "Input/output error"),
    PermissionError(13, "Permission denied"),
    TimeoutError("the bucket did not answer"),
    MemoryError(),
    jax.errors.JaxRuntimeError("INTERNAL: a barrier timed out"),
    ValueError('UNKNOWN: Error reading "a": Input/output error'),
    ValueError("UNAVAILABLE: Error reading"),
    ValueError("PERMISSION_DENIED: 403"),
    RuntimeError("of a client of buckets"),
  ],
  ids=lambda error: str(error)[:16] or "MemoryError",
)
def test_a_read_that_fails_says_nothing_about_damage(
  reopen, tmp_path, monkeypatch, error
):
  save(tmp_path / "checkpoints", [1, 2])
  checkpoints = reopen(tmp_path / "checkpoints")
  before = listing(tmp_path)

  def fail(*_, **__):
    raise error

  for method in ("restore", "find_all"):
    with monkeypatch.context() as patch:
      if method == "restore":
        patch.setattr(ocp.Checkpointer, "restore", fail)
      else:
        patch.setattr(type(ocp.path.step.standard_name_format()), method, fail)
      with pytest.raises(WorkdirLostError, match="Nothing was changed"):
        checkpoints.restore_latest(make_state(0))
  assert listing(tmp_path) == before
  assert checkpoints.restore_latest(make_state(0)).step == 2


def test_readers_change_nothing(tmp_path, caplog):
  save(tmp_path / "checkpoints", [1, 2])
  (tmp_path / "checkpoints/3.orbax-checkpoint-tmp/state").mkdir(parents=True)
  before = listing(tmp_path)
  checkpoints = SavedCheckpoints(tmp_path / "checkpoints")
  assert checkpoints.steps() == [1, 2]
  assert checkpoints.restore_latest(make_state(0)).step == 2
  assert listing(tmp_path) == before

  flip_bytes(tmp_path / "checkpoints/2")
  before = listing(tmp_path)
  assert checkpoints.restore_latest(make_state(0)).step == 1
  assert "2 is damaged" in caplog.text
  with pytest.raises(DamagedCheckpointError):
    checkpoints.restore(make_state(0), 2)
  assert listing(tmp_path) == before

  assert SavedCheckpoints(tmp_path / "none").steps() == []
  assert SavedCheckpoints(tmp_path / "none").restore_latest({}) is None
  assert not (tmp_path / "none").exists()


def test_readers_follow_a_run_that_deletes_what_they_read(
  tmp_path, monkeypatch, caplog
):
  save(tmp_path, [1])
  restore, tried = SavedCheckpoints.restore, []

  def slow_restore(self, template, step):
    tried.append(step)
    if step == 1:  # the run saves two more, and deletes the first
      save(tmp_path, [2, 3])
    return restore(self, template, step)

  monkeypatch.setattr(SavedCheckpoints, "restore", slow_restore)
  checkpoints = SavedCheckpoints(tmp_path)
  assert checkpoints.restore_latest(make_state(0)).step == 3
  assert tried == [1, 3]
  assert "damaged" not in caplog.text


def test_readers_do_not_disturb_a_run_that_saves(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  for step in range(1, 6):
    checkpoints.save(make_state(step))
    SavedCheckpoints(tmp_path).restore_latest(make_state(0))
  checkpoints.close()
  assert SavedCheckpoints(tmp_path).steps() == [4, 5]


@pytest.mark.parametrize("name", ["keep=[1, 2]", "[ab]", "[!a", "*?{a,b}"])
def test_directories_whose_names_are_patterns(reopen, tmp_path, name):
  directory = tmp_path / name / "checkpoints"
  save(directory, [1, 2])
  latest = reopen(directory).restore_latest(make_state(0))
  assert_same(jax.device_get(make_state(2)), latest)


def save_until_it_fails(checkpoints):
  """Save and close as a run does; the error must come within some steps."""
  try:
    for step in range(10, 100):
      checkpoints.save(make_state(step))
  finally:
    checkpoints.close()


def test_removed_directory_gives_one_line(tmp_path, capfd):
  checkpoints = Checkpoints(tmp_path / "checkpoints")
  shutil.rmtree(tmp_path / "checkpoints")
  (tmp_path / "checkpoints").write_text("")  # Orbax would create it again
  with pytest.raises(WorkdirLostError, match="no longer be written") as error:
    save_until_it_fails(checkpoints)
  assert "\n" not in str(error.value)
  assert "Traceback" not in capfd.readouterr().err


@pytest.fixture
def small_disk(tmp_path):
  """Mount a file system of 1 MiB."""
  directory = tmp_path / "disk"
  directory.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", directory]
  if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
    pytest.skip("only root may mount a file system")
  yield directory
  subprocess.run(["umount", "--lazy", directory], check=True)


def test_full_disk_gives_one_line_and_loses_nothing(small_disk, capfd):
  directory = small_disk / "checkpoints"
  save(directory, [1, 2])
  space = os.statvfs(small_disk)
  others = space.f_bavail * space.f_frsize - 40_000  # less than a checkpoint
  (small_disk / "other").write_bytes(bytes(others))
  message = (
    "no longer be written: RESOURCE_EXHAUSTED: .*No space left on device"
  )
  with pytest.raises(WorkdirLostError, match=message) as error:
    save_until_it_fails(Checkpoints(directory))
  assert "\n" not in str(error.value) and len(str(error.value)) < 300
  assert "Traceback" not in capfd.readouterr().err

  (small_disk / "other").unlink()
  checkpoints = Checkpoints(directory)
  assert checkpoints.restore_latest(make_state(0)).step == 2
  checkpoints.save(make_state(3))
  checkpoints.close()
  assert checkpoints.steps() == [2, 3]


def test_damage_and_unfinished_saves_in_a_bucket(bucket, reopen, caplog):
  """A directory is there once it has files, and no rename ends a save."""
  directory = paths.resolve("gs://bucket/run/checkpoints")
  save(directory, [1, 2, 3])
  (directory / "3/commit_success.txt").unlink()  # as if killed before it
  checkpoints = SavedCheckpoints(directory)
  assert checkpoints.steps() == [2]

  save(directory, [3])
  (directory / "3/state/manifest.ocdbt").write_bytes(b"")
  before = set(bucket.names(""))
  assert checkpoints.restore_latest(make_state(0)).step == 2
  assert set(bucket.names("")) == before
  assert reopen(directory).restore_latest(make_state(0)).step == 2
  assert "3 is damaged: DATA_LOSS" in caplog.text
  assert checkpoints.steps() == [2]
  assert list(bucket.names("run/damaged_checkpoints/3/state/"))


def test_an_unfinished_save_does_not_count(reopen, tmp_path):
  save(tmp_path, [1])
  (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
  checkpoints = reopen(tmp_path)
  assert checkpoints.steps() == [1]
  assert checkpoints.restore_latest(make_state(0)).step == 1


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda w: w[:, :32], r"\[64, 64\] for .*kernel.* have float32\[64, 32\]"),
    (lambda w: w.astype(np.float16), r"float32\[64, 64\] .* have float16"),
    (lambda w: {"a": w}, "nothing"),
  ],
)
def test_state_of_another_network_is_refused_and_kept(
  reopen, tmp_path, change, message
):
  save(tmp_path / "checkpoints", [1])
  state = make_state(0)
  params = {"kernel": change(state.params["kernel"])}
  checkpoints = reopen(tmp_path / "checkpoints")
  with pytest.raises(ConfigError, match=message):
    checkpoints.restore_latest(state.replace(params=params))
  assert not (tmp_path / "damaged_checkpoints").exists()
  assert_same(checkpoints.restore_latest(make_state(0)), make_state(1))
