"""Methods and optimizers whose state holds a random key train and resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax.config import schema
from sam_jax.config.schema import ConfigError
from sam_jax.one_gradient import OneGradient
from sam_jax.runs.checkpoints import Checkpoints, SavedCheckpoints
from sam_jax.training import build, input_pipeline, loop, together
from sam_jax.training.stored_keys import store_keys
from tests import tiny
from tests.training.test_loop import stop_at_call

STEPS = 8
OWN_FILE = """
import jax
import optax

from sam_jax import sharpness_aware


def noisy(rho, *, key=0, **kwargs):
  noise = optax.add_noise(0.01, 0.55, key)
  return optax.chain(sharpness_aware(rho, **kwargs), noise)
"""


@pytest.fixture(autouse=True)
def tiny_runs(tmp_path, monkeypatch):
  """Train tiny networks, and find methods in a file outside the repository."""
  (tmp_path / "noisy_methods.py").write_text(OWN_FILE)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(build, "model", tiny.create_model)
  monkeypatch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)


def noisy_config(**fields):
  """Return a config whose method and optimizer both have a key."""
  config = tiny.create_config()
  config.num_epochs = 2
  config.sam.method, config.sam.options = "noisy_methods:noisy", {"key": 1}
  config.sam.m = 1  # two shards on each of eight devices
  config.optimizer.name, config.optimizer.options = "noisy_sgd", {"key": 2}
  schema.update(config, fields)
  return config


def final_state(workdir):
  return SavedCheckpoints(workdir / "checkpoints").restore_tree(STEPS)


def key_after(steps, seed):
  key = jax.random.key(seed)
  for _ in range(steps):
    key, _ = jax.random.split(key)
  return jax.random.key_data(key)


def keys_of(state):
  """Return the data of all random keys of a state."""
  return [
    np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(state)
    if "rng_key" in jax.tree_util.keystr(path)
  ]


def test_a_run_with_keys_resumes_to_the_same_bits(tmp_path, monkeypatch):
  loop.train_and_evaluate(noisy_config(), tmp_path / "at_once")
  with monkeypatch.context() as patch:
    stop_at_call(
      patch, 4 + 4 + 2
    )  # four batches are evaluated after four steps
    assert loop.train_and_evaluate(noisy_config(), tmp_path / "resumed") is None
  assert SavedCheckpoints(tmp_path / "resumed/checkpoints").steps() == [4, 6]
  loop.train_and_evaluate(noisy_config(), tmp_path / "resumed")
  expected, found = (
    final_state(tmp_path / name) for name in ("at_once", "resumed")
  )
  assert jax.tree.all(jax.tree.map(np.array_equal, expected, found))
  # Each shard splits its copy once a step: the keys never differ.
  of_optimizer, of_method = keys_of(found)
  np.testing.assert_array_equal(of_optimizer, key_after(STEPS, 2))
  np.testing.assert_array_equal(of_method, key_after(STEPS, 1))


def test_runs_with_keys_train_together_as_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
  fields = {"sam.m": 16, "num_epochs": 2}
  runs = {"small": {"sam.rho": 0.01}, "large": {"sam.rho": 0.1}}
  configs = [noisy_config(**fields, **run) for run in runs.values()]
  workdirs = [tmp_path / name for name in runs]
  with monkeypatch.context() as patch:
    stop_at_call(patch, 5)
    together.train_and_evaluate(list(zip(configs, workdirs, strict=True)))
  together.train_and_evaluate(list(zip(configs, workdirs, strict=True)))
  loop.train_and_evaluate(configs[1], tmp_path / "alone")
  expected, found = (final_state(tmp_path / n) for n in ("alone", "large"))
  assert jax.tree.all(jax.tree.map(np.array_equal, expected, found))
  np.testing.assert_array_equal(keys_of(found)[1], key_after(STEPS, 1))


def test_keys_of_another_implementation_are_refused(tmp_path):
  def state_of(implementation):
    noise = optax.add_noise(1.0, 0.55, jax.random.key(3, impl=implementation))
    state = store_keys(optax.with_extra_args_support(noise)).init({})
    return tiny_state.replace(sam_state=state)

  tiny_state = loop.create_state(
    build.parts(
      tiny.create_config(), build.dataset_spec(tiny.create_config()), 1, 1
    ),
    (8, 8, 1),
    0,
  )
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(state_of("rbg"))
  checkpoints.close()
  restored = checkpoints.restore_latest(state_of("rbg"))
  assert jax.tree.structure(restored) == jax.tree.structure(state_of("rbg"))
  with pytest.raises(
    ConfigError, match=r"rng_key\.rbg; this network and method"
  ):
    checkpoints.restore_latest(state_of("unsafe_rbg"))


def test_a_point_depends_on_keys_of_the_state():
  method = store_keys(
    OneGradient(
      lambda params: {"key": jax.random.key(0)},
      lambda updates, state, params, **_: (updates, state),
      lambda state, params: jax.random.normal(state["key"], params.shape),
    )
  )
  params = jnp.zeros(3)
  np.testing.assert_array_equal(
    method.point(method.init(params), params),
    jax.random.normal(jax.random.key(0), (3,)),
  )
