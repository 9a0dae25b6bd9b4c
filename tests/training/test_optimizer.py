"""Optimizers and averages against the official release."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax.config.schema import default_config
from sam_jax.training import optimizer


def create(**fields):
  config = default_config().optimizer
  config.update({"gradient_clipping": 0.0, "weight_decay": 0.0, **fields})
  rate = optax.constant_schedule(config.learning_rate)
  return optimizer.create_optimizer(config, rate)


def descend(tx, params, gradients):
  """Yields the parameters after each step."""
  state = tx.init(params)
  for gradient in gradients:
    updates, state = tx.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    yield params


@pytest.mark.parametrize(
  ("fields", "name"),
  [({"name": "rmsprop"}, "params"), ({"name": "sgd"}, "nesterov_params")],
)
def test_descent_equals_the_official_release(golden, fields, name):
  recorded = golden("rmsprop.npz")
  tx = create(learning_rate=float(recorded["lr"]), **fields)
  steps = descend(tx, recorded["init"], recorded["grads"])
  for params, expected in zip(steps, recorded[name], strict=True):
    np.testing.assert_allclose(params, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("limit", [0.0, 1.0, 100.0])
def test_clipping_equals_the_official_release(golden, limit):
  recorded = golden("losses.npz")
  gradient = {"a": recorded["tree/a"], "b": recorded["tree/b"]}
  tx = create(gradient_clipping=limit, momentum=0.0, learning_rate=1.0)
  updates, _ = tx.update(gradient, tx.init(gradient), gradient)
  for name in gradient:
    expected = -recorded[f"clip{limit:.0f}/{name}"]
    np.testing.assert_allclose(updates[name], expected, rtol=1e-6)


@pytest.mark.parametrize("on_norm", [True, False])
def test_adamw_decays_apart_from_the_gradient(on_norm):
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  nothing = jax.tree.map(jnp.zeros_like, params)
  tx = create(
    name="adamw",
    weight_decay=0.5,
    weight_decay_kind="decoupled",
    weight_decay_on_norm=on_norm,
  )
  (after,) = descend(tx, params, [nothing])
  np.testing.assert_allclose(after["kernel"], 1 - 0.1 * 0.5)
  np.testing.assert_allclose(after["bias"], 1 - 0.1 * 0.5 * on_norm)


@pytest.mark.parametrize(("warmup", "name"), [(5, "ema"), (12, "ema_warmup12")])
def test_ema_equals_the_official_release(golden, warmup, name):
  recorded = golden("ema.npz")
  ema = recorded["init"]
  decay = float(recorded["decay"])
  for step, target, expected in zip(
    recorded["steps"], recorded["targets"], recorded[name], strict=True
  ):
    ema = optimizer.update_ema(
      ema, target, jnp.int32(step), decay=decay, warmup_steps=warmup
    )
    np.testing.assert_allclose(ema, expected, rtol=1e-6, atol=1e-7)


def test_any_optimizer_of_optax_with_its_options():
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  gradients = [optax.tree.full_like(params, g) for g in (0.3, -0.7)]
  ours = create(name="lion", options={"b1": 0.5}, learning_rate=0.02)
  theirs = optax.lion(0.02, b1=0.5)
  for got, want in zip(
    descend(ours, params, gradients),
    descend(theirs, params, gradients),
    strict=True,
  ):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_decoupled_decay_is_the_optimizers_own():
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  nothing = jax.tree.map(jnp.zeros_like, params)
  fields = {"weight_decay": 0.5, "weight_decay_kind": "decoupled"}
  tx = create(name="lion", weight_decay_on_norm=False, **fields)
  (after,) = descend(tx, params, [nothing])
  np.testing.assert_allclose(after["kernel"], 1 - 0.1 * 0.5)
  np.testing.assert_allclose(after["bias"], 1)
  with pytest.raises(ValueError, match="no argument 'weight_decay'; it takes"):
    create(name="yogi", **fields)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw", "lion"])
def test_unknown_options_are_reported(name):
  with pytest.raises(ValueError, match="no argument 'speed'; it takes"):
    create(name=name, options={"speed": 1.0})
