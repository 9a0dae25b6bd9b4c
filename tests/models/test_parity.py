"""Numbers of the official release: logits, batch statistics, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax.models import create_model, layers
from tests.models.golden_models import (
  Golden,
  flattened,
  rule_images,
  rule_variables,
)

KEY = jax.random.key(0)


def run(model, variables, x, *, train):
  """Logits, and the updated collections if `train`."""
  mutable = ["batch_stats"] if train else False
  forward = functools.partial(
    model.apply, train=train, rngs={"dropout": KEY}, mutable=mutable
  )
  return jax.jit(forward)(variables, x)


def loss_and_updates(model, variables, x, labels, true_gradient=False):
  """Train-mode cross-entropy, its gradient, logits and new statistics."""

  def loss_fn(params):
    logits, updates = model.apply(
      {**variables, "params": params},
      x,
      train=True,
      true_gradient=true_gradient,
      rngs={"dropout": KEY},
      mutable=["batch_stats"],
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return loss.mean(), (logits, updates["batch_stats"])

  step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  (loss, (logits, stats)), grads = step(variables["params"])
  return loss, logits, stats, grads


def assert_trees_close(actual, expected, rtol, atol):
  actual, expected = flattened(actual), flattened(expected)
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol, atol, err_msg=name)


def gradient_error(golden, grads, suffix=""):
  """Largest relative error of norms, sums and arrays of the gradients."""
  grads = flattened(grads)
  names = [str(name) for name in golden["grad_names"]]
  assert sorted(grads) == names
  expected = golden[f"grad_norms{suffix}"]
  norms = np.array([np.linalg.norm(grads[name]) for name in names])
  sums = np.array([np.sum(grads[name]) for name in names])
  roots = np.sqrt([grads[name].size for name in names])
  errors = [
    *np.abs(norms - expected),
    *np.abs(sums - golden[f"grad_sums{suffix}"]) / roots,
  ]
  scales = [*expected, *expected]
  for name, value in flattened(golden.tree(f"grad{suffix}")).items():
    errors.append(np.linalg.norm(grads[name] - value))
    scales.append(np.linalg.norm(value))
  # Biases that a later batch norm subtracts have gradient 0 but for rounding.
  return np.max(np.array(errors) / (np.array(scales) + 0.01))


@functools.cache
def wide_resnet():
  return Golden("wide_resnet_mini"), create_model("wrn_mini", 10)


@functools.cache
def pyramidnet():
  golden = Golden("pyramid_mini")
  return golden, create_model("pyramidnet_mini_shakedrop", 10)


@functools.cache
def tiny(**options):
  return create_model("efficientnet_tiny", 1000, **options)


@functools.cache
def tiny_golden():
  return Golden("efficientnet_tiny")


@pytest.mark.parametrize("build", [wide_resnet, pyramidnet])
def test_cifar_eval_logits(build):
  golden, model = build()
  logits = run(model, golden.variables(), golden["x"], train=False)
  np.testing.assert_allclose(logits, golden["logits_eval"], atol=1e-5)


def test_wide_resnet_training_pass():
  golden, model = wide_resnet()
  variables = golden.variables()
  step = jax.jit(functools.partial(loss_and_updates, model))
  loss, logits, stats, grads = step(variables, golden["x"], golden["labels"])
  np.testing.assert_allclose(logits, golden["logits_train"], atol=2e-5)
  np.testing.assert_allclose(loss, golden["loss_train"], rtol=1e-5)
  assert_trees_close(stats, golden.tree("new_state"), 1e-5, 1e-6)
  # Rounding decides whether the ReLU of an input next to zero is open, which
  # moves gradients by 2e-2. So theirs is ours at weights as close as that.
  errors = [gradient_error(golden, grads)]
  random = np.random.default_rng(0)
  for _ in range(16):
    params = jax.tree.map(
      lambda x: x * (1 + 1e-7 * random.normal(size=x.shape).astype(x.dtype)),
      variables["params"],
    )
    near = step({**variables, "params": params}, golden["x"], golden["labels"])
    errors.append(gradient_error(golden, near[-1]))
  assert min(errors) < 2e-5


def test_shake_drop_draws_equal_the_official_ones():
  golden, _ = pyramidnet()
  # The official release predates jax's partitionable generator.
  with jax.threefry_partitionable(False):
    for i, key in enumerate(golden["block_rng"]):
      key = jax.random.wrap_key_data(jnp.asarray(key))
      draws = layers.draw_shake_drop(key, 8, float(golden["mask_prob"][i]))
      for name, draw in zip(("mask", "alpha", "beta"), draws, strict=True):
        np.testing.assert_array_equal(draw.ravel(), golden[name][i], name)


@pytest.mark.parametrize("true_gradient", [False, True])
def test_pyramidnet_training_pass(monkeypatch, true_gradient):
  golden, model = pyramidnet()
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
  assert gradient_error(golden, grads, suffix) < 5e-3


def test_efficientnet_eval_logits():
  golden = tiny_golden()
  logits = run(tiny(), golden.variables(), golden["x"], train=False)
  np.testing.assert_allclose(logits, golden["logits_eval"], atol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_efficientnet_synchronised_batch_norm(devices):
  golden = tiny_golden()
  model = tiny(
    dropout_rate=0.0, stochastic_depth_rate=0.0, batch_norm_axis="batch"
  )

  def forward(variables, x):
    return model.apply(variables, x, train=True, mutable=["batch_stats"])

  forward = jax.pmap(
    forward, "batch", in_axes=(None, 0), devices=jax.devices()[:devices]
  )
  x = golden["x"].reshape(devices, -1, 32, 32, 3)
  logits, updates = forward(golden.variables(), x)
  record = f"det_train/dev{devices}"
  np.testing.assert_allclose(
    logits.reshape(8, 1000),
    golden[f"{record}/logits"].reshape(8, 1000),
    atol=2e-5,
  )
  stats = jax.tree.map(lambda s: s[0], updates["batch_stats"])
  expected = golden.tree(f"{record}/new_state")
  assert_trees_close(stats, expected, 1e-5, 1e-6)


def test_efficientnet_frozen_batch_norm():
  golden = tiny_golden()
  variables = golden.variables()
  model = tiny(
    dropout_rate=0.0, stochastic_depth_rate=0.0, freeze_batch_norm=True
  )
  logits, updates = run(model, variables, golden["x"], train=True)
  expected = golden["det_train/from_pretrained/logits"].reshape(8, 1000)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  assert_trees_close(updates["batch_stats"], variables["batch_stats"], 0, 0)


def test_efficientnet_dropout_and_stochastic_depth(monkeypatch):
  golden = tiny_golden()
  draws = iter(range(3))

  def replay(key, shape, probability):
    del key
    i = next(draws)
    expected = golden["stoch_train/keep_prob"][i]
    assert probability == pytest.approx(float(expected))
    return jnp.reshape(golden[f"stoch_train/mask{i}"], shape).astype(bool)

  monkeypatch.setattr(layers, "draw_keep", replay)
  logits, updates = run(tiny(), golden.variables(), golden["x"], train=True)
  expected = golden["stoch_train/logits"].reshape(8, 1000)
  np.testing.assert_allclose(logits, expected, atol=2e-5)
  new_state = golden.tree("stoch_train/new_state")
  assert_trees_close(updates["batch_stats"], new_state, 1e-5, 1e-6)


@functools.cache
def full_size(record, model, gain):
  golden, variables = Golden(record), rule_variables(model, gain)
  x = rule_images(2, 224)
  # First of all the rule itself, or nothing below would mean anything.
  params = flattened(variables["params"])
  names = [str(name) for name in golden["param_checksum_names"]]
  sums = [params[name].sum(dtype=np.float64) for name in names]
  np.testing.assert_allclose(sums, golden["param_checksum_sums"], 1e-5, 1e-5)
  np.testing.assert_allclose(
    x.sum(dtype=np.float64), golden["input_checksum"], 1e-5
  )
  return golden, variables, x


@pytest.mark.parametrize(
  ("record", "model", "gain"),
  [
    ("resnet50_rule", "Resnet50", 1.4),
    ("efficientnet_b0_rule", "efficientnet-b0", 2.3),
  ],
)
def test_full_size_eval_logits(record, model, gain):
  golden, variables, x = full_size(record, model, gain)
  logits = run(create_model(model, 1000), variables, x, train=False)
  error = np.abs(logits - golden["logits_eval"]).max()
  assert error <= 4 * golden["logits_eval_noise"]


def test_full_size_resnet_training_pass():
  golden, variables, x = full_size("resnet50_rule", "Resnet50", 1.4)
  logits, updates = run(
    create_model("resnet50", 1000), variables, x, train=True
  )
  scale = np.abs(golden["logits_train"]).max()
  np.testing.assert_allclose(logits, golden["logits_train"], atol=1e-3 * scale)
  stats = flattened(updates["batch_stats"])
  for name, expected in zip(
    golden["new_state_names"], golden["new_state_sums"], strict=True
  ):
    values = np.asarray(stats[str(name).removeprefix("state/")], np.float64)
    total = values.sum()
    np.testing.assert_allclose(total, expected, 1e-4, 1e-4, err_msg=str(name))
