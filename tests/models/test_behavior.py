"""Modes and options that all models share."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sam_jax.models import create_model, layers
from sam_jax.models.layers import LayerSettings
from sam_jax.models.pyramidnet import BottleneckBlock
from sam_jax.models.shake_shake import ShakeShakeBlock
from sam_jax.models.summary import model_summary
from tests.models.golden_models import (
  block_variables,
  flattened,
  quick_variables,
)

SMALL = [
  "wrn10_2",
  "shake_shake_mini",
  "pyramidnet_mini_shakedrop",
  "resnet20",
  "resnet18",
  "efficientnet_tiny",
  "cnn8",
]


def images(batch=4, size=16, channels=3, seed=0):
  return jax.random.normal(jax.random.key(seed), (batch, size, size, channels))


def fast_key(seed):
  # This generator compiles in a fraction of the default one's time.
  return jax.random.key(seed, impl="rbg")


@functools.cache
def compiled(model, train):
  mutable = ["batch_stats"] if train else False
  return jax.jit(functools.partial(model.apply, train=train, mutable=mutable))


def train_pass(model, variables, x, seed=0):
  rngs = {"dropout": fast_key(seed)}
  logits, updates = compiled(model, True)(variables, x, rngs=rngs)
  return logits, updates["batch_stats"]


def eval_pass(model, variables, x):
  return compiled(model, False)(variables, x)


def assert_same(actual, expected, **tolerance):
  actual, expected = flattened(actual), flattened(expected)
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, err_msg=name, **tolerance)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_keeps_float32_variables_and_logits(name):
  model = create_model(name, 10, dtype=jnp.bfloat16)

  def forward(x):
    variables = model.init(jax.random.key(0), x, train=False)
    logits, updates = model.apply(
      variables,
      x,
      train=True,
      rngs={"dropout": jax.random.key(1)},
      capture_intermediates=lambda module, _: type(module).__name__ == "Conv",
      mutable=["batch_stats", "intermediates"],
    )
    return updates.pop("intermediates"), (variables, updates, logits)

  convs, rest = jax.eval_shape(forward, images())
  assert {leaf.dtype.name for leaf in jax.tree.leaves(convs)} == {"bfloat16"}
  assert {leaf.dtype.name for leaf in jax.tree.leaves(rest)} == {"float32"}


def test_bfloat16_is_close_to_float32():
  x = images(8, 32)
  exact, rough = (
    create_model("efficientnet_tiny", 10, dtype=dtype)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  variables = quick_variables(exact, x)
  expected, actual = (eval_pass(m, variables, x) for m in (exact, rough))
  assert 0 < abs(actual - expected).max() < 0.05 * abs(expected).max()


@pytest.mark.parametrize("name", ["wrn10_2", "resnet18", "efficientnet_tiny"])
def test_frozen_batch_norm_trains_with_running_averages(name):
  x = images()
  options = {"dropout_rate": 0.0, "stochastic_depth_rate": 0.0}
  options = options if name.startswith("eff") else {}
  model = create_model(name, 10, freeze_batch_norm=True, **options)
  variables = quick_variables(model, x)
  variables["batch_stats"] = jax.tree.map(
    lambda s: s + 0.1, variables["batch_stats"]
  )
  logits, stats = train_pass(model, variables, x)
  assert_same(stats, variables["batch_stats"], rtol=0)
  expected = eval_pass(model, variables, x)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_groups_share_statistics_within_a_group():
  x = images(8, 8)
  groups = [[0, 1], [2, 3]]
  model = create_model(
    "wrn10_2", 10, batch_norm_axis="batch", batch_norm_groups=groups
  )
  variables = quick_variables(model, x)

  def forward(variables, x):
    return model.apply(variables, x, train=True, mutable=["batch_stats"])

  grouped = jax.pmap(
    forward, "batch", in_axes=(None, 0), devices=jax.devices()[:4]
  )
  logits, _ = grouped(variables, x.reshape(4, 2, 8, 8, 3))
  local = create_model("wrn10_2", 10)
  expected = [train_pass(local, variables, half)[0] for half in (x[:4], x[4:])]
  np.testing.assert_allclose(
    logits.reshape(8, 10), jnp.concatenate(expected), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("name", SMALL)
def test_remat_keeps_names_and_recomputes_blocks(name):
  x = images(2, 8)
  shapes, programs = [], []
  for remat in (False, True):
    model = create_model(name, 10, remat=remat)
    variables = quick_variables(model, x)
    shapes.append(jax.tree.map(jnp.shape, variables))
    forward = functools.partial(model.apply, train=False)
    programs.append(str(jax.make_jaxpr(forward)(variables, x)))
  assert shapes[0] == shapes[1]
  # Plain stacks have no blocks.
  assert ["remat" in p for p in programs] == [False, name != "cnn8"]


def test_remat_keeps_gradients_and_random_draws():
  x = images(2, 8, 16)
  gradients = []
  for remat in (False, True):
    settings = LayerSettings(train=True, remat=remat)
    block = layers.block_class(ShakeShakeBlock, settings)
    block = block(16, (1, 1), settings)
    gradient, variables = block_gradient(block, x)
    gradients.append(flattened(gradient(variables["params"])[1]))
  assert_same(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  "name",
  ["shake_shake_mini", "pyramidnet_mini_shakedrop", "efficientnet_tiny"],
)
def test_randomness_follows_the_dropout_key(name):
  x = images()
  model = create_model(name, 10)
  variables = quick_variables(model, x)
  first, again, other = (
    train_pass(model, variables, x, seed)[0] for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert abs(first - other).max() > 1e-3


def block_loss(block, variables, x, params):
  """A fixed combination of a block's outputs, in train mode."""
  y, _ = block.apply(
    {**variables, "params": params},
    x,
    rngs={"dropout": fast_key(1)},
    mutable=["batch_stats"],
  )
  return jnp.sum(jnp.sin(jnp.arange(y.size)) * y.ravel())


def block_gradient(block, x):
  """`block_loss` and its gradient as one function, and the variables."""
  variables = block_variables(block.clone(settings=LayerSettings()), x)
  loss = functools.partial(block_loss, block, variables, x)
  return jax.jit(jax.value_and_grad(loss)), variables


@pytest.mark.parametrize("true_gradient", [False, True])
@pytest.mark.parametrize("kind", ["shake_shake", "shake_drop"])
def test_true_gradient_of_a_block(kind, true_gradient):
  settings = LayerSettings(train=True, true_gradient=true_gradient)
  if kind == "shake_shake":
    block, name = ShakeShakeBlock(16, (1, 1), settings), "bn_a_2"
  else:
    block, name = BottleneckBlock(8, (1, 1), 0.5, settings), "bn_3"
  x = images(4, 8, 16)
  gradient, variables = block_gradient(block, x)
  params = variables["params"]

  def moved(step):
    changed = {**params[name], "bias": params[name]["bias"] + step}
    return gradient({**params, name: changed})[0]

  slope = gradient(params)[1][name]["bias"].sum()
  # The block is linear in its last bias, up to the random coefficients.
  difference = (moved(np.float32(1)) - moved(np.float32(-1))) / 2
  assert np.isclose(slope, difference, rtol=1e-3) == true_gradient


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(9, 13), (5, 5)])
def test_odd_image_sizes(name, size):
  model = create_model(name, 10)
  x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)

  def forward(x):
    variables = model.init(jax.random.key(0), x, train=False)
    return model.apply(variables, x, train=False)

  assert jax.eval_shape(forward, x).shape == (2, 10)


@pytest.mark.parametrize("extra", [False, True])
def test_additional_skips(extra):
  x = images(2, 16)
  model = create_model("wrn10_2", 10, additional_skips=extra)
  flat = flattened(quick_variables(model, x)["params"])
  # Blocks without a residual branch and without normalisation: only the
  # shortcuts remain, and they have a closed form.
  neutral = {"scale": 1, "bias": 0}
  for name, value in flat.items():
    fill = 0 if "conv2" in name else neutral.get(name.rsplit("/", 1)[-1])
    flat[name] = value if fill is None else np.full_like(value, fill)
  model_stats = quick_variables(model, x)["batch_stats"]
  stats = traverse_util.path_aware_map(
    lambda path, s: np.full_like(s, path[-1] == "var"), model_stats
  )
  params = traverse_util.unflatten_dict(flat, sep="/")
  logits = eval_pass(model, {"params": params, "batch_stats": stats}, x)

  shortcut = layers.zero_pad_shortcut
  stem = jax.lax.conv_general_dilated(
    x,
    flat["init_conv/kernel"],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  y = shortcut(jax.nn.relu(stem) + extra * stem, 32, (1, 1))
  for channels in (64, 128):
    y = (1 + extra) * shortcut(y, channels, (2, 2))
  y = y + extra * shortcut(x, 128, (4, 4))
  pooled = jax.nn.relu(y).mean(axis=(1, 2))
  expected = pooled @ flat["Dense_3/kernel"] + flat["Dense_3/bias"]
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_without_normalisation_activations_stay_moderate():
  x = images(8, 8)
  model = create_model("wrn28_1", 10, normalisation=False)

  @jax.jit
  def initial_logits(key):
    logits, variables = model.init_with_output(key, x, train=False)
    assert "batch_stats" not in variables
    return logits

  logits = initial_logits(fast_key(0))
  assert 0.01 < logits.std() < 10


def test_dropout_in_wide_resnet_acts_in_train_mode_only():
  x = images()
  plain = create_model("wrn10_2", 10)
  dropout = create_model("wrn10_2", 10, dropout_rate=0.3)
  variables = quick_variables(plain, x)
  np.testing.assert_array_equal(
    eval_pass(plain, variables, x), eval_pass(dropout, variables, x)
  )
  first, second = (train_pass(m, variables, x)[0] for m in (plain, dropout))
  assert abs(first - second).max() > 1e-3


def test_full_size_wide_resnet_runs_in_seconds():
  model = create_model("wrn28_10", 100)
  x = images(1, 32)
  start = time.monotonic()
  logits = eval_pass(model, quick_variables(model, x), x)
  assert logits.shape == (1, 100) and np.isfinite(logits).all()
  assert time.monotonic() - start < 60


def test_summary_tells_size_and_cost():
  text = model_summary(create_model("efficientnet_tiny", 10), (32, 32, 3))
  assert "MBConvBlock_3" in text
  assert "Parameters: 30,580" in text
  assert "Batch statistics: 1,872" in text
  flops = int(text.rsplit(": ", 1)[1].replace(",", ""))
  assert 1.5e6 < flops < 3e6
