"""Checkpoints restore every bit, and damage is noticed."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax.config.schema import ConfigError
from sam_jax.runs.checkpoints import Checkpoints
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


def test_nothing_to_restore(reopen, tmp_path):
  assert reopen(tmp_path).restore_latest(make_state(0)) is None


def test_keeps_the_last_two_and_those_asked_for(reopen, tmp_path):
  save(tmp_path, [1, 2, 3, 4, 5], keep_steps=[2])
  assert reopen(tmp_path).steps() == [2, 4, 5]


@pytest.mark.parametrize("damage", [flip_bytes, truncate, remove_metadata])
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


def test_damage_of_all_checkpoints_is_an_error(reopen, tmp_path):
  save(tmp_path / "checkpoints", [1, 2])
  for step in ("1", "2"):
    truncate(tmp_path / "checkpoints" / step)
  with pytest.raises(ConfigError, match="damaged_checkpoints"):
    reopen(tmp_path / "checkpoints").restore_latest(make_state(0))


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
