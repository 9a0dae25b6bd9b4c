"""PyramidNets: official numbers, and ShakeDrop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import LayerSettings, create_model, layers
from sam_jax.models.pyramidnet import BottleneckBlock
from tests.models.golden_models import Golden
from tests.models.passes import (
  assert_trees_close,
  eval_pass,
  has_true_gradient,
  images,
  loss_and_updates,
)


@functools.cache
def official():
  golden = Golden("pyramid_mini")
  return golden, create_model("pyramidnet_mini_shakedrop", 10)


def test_official_eval_logits():
  golden, model = official()
  logits = eval_pass(model, golden.variables(), golden["x"])
  np.testing.assert_allclose(logits, golden["logits_eval"], atol=1e-5)


def test_shake_drop_draws_equal_the_official_ones():
  golden, _ = official()
  # The official release predates jax's partitionable generator.
  with jax.threefry_partitionable(False):
    for i, key in enumerate(golden["block_rng"]):
      key = jax.random.wrap_key_data(jnp.asarray(key))
      draws = layers.draw_shake_drop(key, 8, float(golden["mask_prob"][i]))
      for name, draw in zip(("mask", "alpha", "beta"), draws, strict=True):
        np.testing.assert_array_equal(draw.ravel(), golden[name][i], name)


@pytest.mark.parametrize("true_gradient", [False, True])
def test_official_training_pass(monkeypatch, true_gradient):
  golden, model = official()
  blocks = iter(range(3))

  def replay(key, batch, keep_probability):
    del key
    i = next(blocks)
    assert keep_probability == pytest.approx(golden["mask_prob"][i])
    draws = (golden[name][i] for name in ("mask", "alpha", "beta"))
    return tuple(jnp.reshape(draw, (batch, 1, 1, 1)) for draw in draws)

  monkeypatch.setattr(layers, "draw_shake_drop", replay)
  loss, logits, stats, grads = loss_and_updates(
    model, golden.variables(), golden["x"], golden["labels"], true_gradient
  )
  suffix = "_true_gradient" if true_gradient else ""
  np.testing.assert_allclose(logits, golden[f"logits_train{suffix}"], atol=2e-5)
  np.testing.assert_allclose(loss, golden[f"loss_train{suffix}"], rtol=1e-5)
  assert_trees_close(stats, golden.tree("new_state"), 1e-5, 1e-6)
  # Weights changed by 1e-7 move these gradients by 7e-4: a ReLU switches.
  assert golden.gradient_error(grads, suffix) < 5e-3


@pytest.mark.parametrize("true_gradient", [False, True])
def test_true_gradient_of_a_block(true_gradient):
  settings = LayerSettings(train=True, true_gradient=true_gradient)
  block = BottleneckBlock(8, (1, 1), 0.5, settings)
  x = images(4, 8, 8, 16)
  assert has_true_gradient(block, x, "bn_3") == true_gradient


def test_shake_drop_is_optional():
  assert create_model("pyramidnet272_shakedrop", 10).shake_drop
  assert not create_model("pyramidnet272", 10).shake_drop
  assert not create_model("pyramidnet_mini", 10).shake_drop
