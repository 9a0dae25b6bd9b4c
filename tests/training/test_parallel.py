"""Functions on devices: donation, memory, and pmap in one place."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.config.schema import default_config
from sam_jax.training import build, parallel
from sam_jax.training import step as step_lib
from sam_jax.training.parallel import AXIS
from tests.processes import REPOSITORY


class FakeDevice:
  """A device that tells of its memory as GPUs and TPUs do."""

  def __init__(self, stats):
    self._stats = stats

  def memory_stats(self):
    return self._stats


@pytest.fixture
def memory_of(monkeypatch):
  def memory(*stats):
    devices = [FakeDevice(s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    return parallel.memory()

  return memory


def test_memory_is_that_of_the_fullest_device(memory_of):
  stats = [
    {"bytes_in_use": 5, "peak_bytes_in_use": peak, "num_allocs": 1}
    for peak in (7, 9, 8)
  ]
  assert memory_of(*stats) == {"bytes_in_use": 5, "peak_bytes_in_use": 9}
  assert memory_of({"bytes_limit": 3}, None) == {"bytes_limit": 3}


def test_nothing_where_nothing_is_known(memory_of):
  assert jax.default_backend() == "cpu"
  assert parallel.memory() == {}
  assert memory_of(None, {}) == {}


def tiny_step(state, batch):
  """A step with a collective, a donated state and a per-device batch."""
  mean = jax.lax.pmean(jnp.mean(jnp.sin(batch["x"]) * state["w"]), AXIS)
  return {"w": state["w"] * 0.9 + mean}, {"mean": mean}


def test_the_step_takes_the_memory_of_the_state():
  state = parallel.replicate({"w": np.arange(5.0, dtype=np.float32)})
  batch = parallel.shard({"x": np.ones((16, 5), np.float32)})
  new, _ = parallel.map_train_step(tiny_step)(state, batch)
  assert state["w"].is_deleted()
  assert not new["w"].is_deleted()
  assert not batch["x"].is_deleted()


def test_a_batch_comes_back_from_the_devices_in_order():
  batch = np.arange(48).reshape(16, 3)
  for devices in (None, jax.devices()[:1], jax.devices()[::-1]):
    on_devices = parallel.shard({"x": batch}, devices)
    parts = parallel.fetch(on_devices)["x"]
    assert parts.shape == on_devices["x"].shape
    np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_shard_map_in_the_place_of_pmap_gives_the_same_bits(monkeypatch):
  """The real SAM step of a network with batch norm, on four devices."""
  config = default_config()
  config.update({"batch_size": 16, "num_epochs": 1})
  config.model.name = "tests.tiny:ConvNet"
  config.dataset.name = "digits"
  config.sam.update({"rho": 0.5, "m": 8})  # two devices share a perturbation
  spec = build.dataset_spec(config)
  parts = build.parts(config, spec, 10, 4)
  state = jax.device_get(step_lib.create_state(parts, spec.image_shape, 0))
  random = np.random.default_rng(0)
  batch = {
    "image": random.normal(size=(16, 8, 8, 1)).astype(np.float32),
    "target": np.eye(10, dtype=np.float32)[random.integers(10, size=16)],
  }

  def two_steps():
    devices = jax.devices()[:4]
    step = parallel.map_train_step(
      functools.partial(step_lib.train_step, parts=parts), devices
    )
    now = parallel.replicate(state, devices)
    for _ in range(2):
      now, metrics = step(now, parallel.shard(batch, devices))
    return jax.device_get((now, metrics))

  by_pmap = two_steps()
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  jax.tree.map(np.testing.assert_array_equal, by_pmap, two_steps())


def test_no_other_file_maps_functions_onto_devices():
  files = [
    file
    for folder in ("sam_jax", "scripts", "tests")
    for file in (REPOSITORY / folder).rglob("*.py")
    if re.search(r"\bpmap\(", file.read_text())
  ]
  names = sorted(str(file.relative_to(REPOSITORY)) for file in files)
  assert names == [
    "sam_jax/training/parallel.py",
    "tests/process_pairs.py",  # compares pmap with shard_map
    "tests/test_own_loop.py",  # compares pmap with the loops of the page
    "tests/test_sam.py",  # compares pmap with shard_map and vmap
  ]
