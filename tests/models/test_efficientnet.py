"""EfficientNets against official numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import create_model, layers
from sam_jax.training import parallel
from tests.models.golden_models import Golden, full_size
from tests.models.passes import (
  assert_trees_close,
  eval_pass,
  fast_key,
  forward,
  train_pass,
)


@functools.cache
def tiny(**options):
  return create_model("efficientnet_tiny", 1000, **options)


@functools.cache
def tiny_golden():
  return Golden("efficientnet_tiny")


def test_official_eval_logits():
  golden = tiny_golden()
  logits = eval_pass(tiny(), golden.variables(), golden["x"])
  np.testing.assert_allclose(logits, golden["logits_eval"], atol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_synchronized_batch_norm(devices):
  golden = tiny_golden()
  model = tiny(
    dropout_rate=0.0, stochastic_depth_rate=0.0, batch_norm_axis=parallel.AXIS
  )

  def apply(variables, x):
    return model.apply(variables, x, train=True, mutable=["batch_stats"])

  mapped = parallel.map_over_devices(
    apply,
    in_axes=(None, 0),
    out_axes=(0, None),
    devices=jax.devices()[:devices],
  )
  x = golden["x"].reshape(devices, -1, 32, 32, 3)
  logits, updates = mapped(golden.variables(), x)
  record = f"det_train/dev{devices}"
  np.testing.assert_allclose(
    logits.reshape(8, 1000),
    golden[f"{record}/logits"].reshape(8, 1000),
    atol=2e-5,
  )
  expected = golden.tree(f"{record}/new_state")
  assert_trees_close(updates["batch_stats"], expected, 1e-5, 1e-6)


def test_frozen_batch_norm():
  golden = tiny_golden()
  variables = golden.variables()
  model = tiny(
    dropout_rate=0.0, stochastic_depth_rate=0.0, freeze_batch_norm=True
  )
  logits, stats = train_pass(model, variables, golden["x"])
  expected = golden["det_train/from_pretrained/logits"].reshape(8, 1000)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  assert_trees_close(stats, variables["batch_stats"])


def test_dropout_and_stochastic_depth(monkeypatch):
  golden = tiny_golden()
  draws = iter(range(3))

  def replay(key, shape, probability):
    del key
    i = next(draws)
    expected = golden["stoch_train/keep_prob"][i]
    assert probability == pytest.approx(float(expected))
    return jnp.reshape(golden[f"stoch_train/mask{i}"], shape).astype(bool)

  monkeypatch.setattr(layers, "draw_keep", replay)
  # Not `train_pass`, which may hold a program without the recorded draws.
  step = forward(tiny(), train=True)
  logits, updates = step(golden.variables(), golden["x"], fast_key(0))
  expected = golden["stoch_train/logits"].reshape(8, 1000)
  np.testing.assert_allclose(logits, expected, atol=2e-5)
  new_state = golden.tree("stoch_train/new_state")
  assert_trees_close(updates["batch_stats"], new_state, 1e-5, 1e-6)


def test_full_size_eval_logits():
  record, name = "efficientnet_b0_rule", "efficientnet-b0"
  golden, variables, x = full_size(record, name, 2.3)
  logits = eval_pass(create_model(name, 1000), variables, x)
  error = np.abs(logits - golden["logits_eval"]).max()
  assert error <= 4 * golden["logits_eval_noise"]
