"""The contract of every network: modes, options, types and shapes."""

import functools
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import target
from sam_jax.models import (
  LayerSettings,
  create_model,
  known_models,
  layers,
  mlp_mixer,
  resnet,
  vision_transformer,
)
from sam_jax.models.shake_shake import ShakeShakeBlock
from sam_jax.training import parallel
from tests.models.golden_models import quick_variables
from tests.models.passes import (
  assert_trees_close,
  block_gradient,
  eval_pass,
  images,
  train_pass,
)
from tests.models.shapes import init_shapes, parameters_of_zeros

SMALL = [
  "wrn10_2",
  "shake_shake_mini",
  "pyramidnet_mini_shakedrop",
  "resnet20",
  "resnet18",
  "efficientnet_tiny",
  "cnn8",
  "vit_nano4",
  "mixer_nano4",
]


@pytest.fixture(autouse=True)
def few_equal_blocks(monkeypatch):
  """Leave one block of each kind: the others take time and are the same."""
  for depth, (stages, bottleneck) in list(resnet._RESNETS.items()):
    blocks = (1,) * len(stages), bottleneck
    monkeypatch.setitem(resnet._RESNETS, depth, blocks)
  for module in (vision_transformer, mlp_mixer):
    size = module.SIZES["nano"]._replace(depth=1)
    monkeypatch.setitem(module.SIZES, "nano", size)


@pytest.fixture(autouse=True)
def no_initial_values():
  """Trace no initializers: the tests have variables of their own."""
  with parameters_of_zeros():
    yield


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_keeps_float32_variables_and_logits(name):
  model = create_model(name, 10, dtype=jnp.bfloat16)

  x = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
  _, variables = init_shapes(model, x, train=False)

  def forward(variables, x):
    logits, updates = model.apply(
      variables,
      x,
      train=True,
      rngs={"dropout": jax.random.key(1)},
      capture_intermediates=lambda module, _: type(module).__name__ == "Conv",
      mutable=["batch_stats", "intermediates"],
    )
    return updates.pop("intermediates"), (updates, logits)

  convs, rest = jax.eval_shape(forward, variables, x)
  rest = variables, rest
  assert {leaf.dtype.name for leaf in jax.tree.leaves(convs)} == {"bfloat16"}
  assert {leaf.dtype.name for leaf in jax.tree.leaves(rest)} == {"float32"}


def test_bfloat16_is_close_to_float32():
  x = images(8, 32, 32, 3)
  exact, rough = (
    create_model("efficientnet_tiny", 10, dtype=dtype)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  variables = quick_variables(exact, x)
  expected, actual = (eval_pass(m, variables, x) for m in (exact, rough))
  assert 0 < abs(actual - expected).max() < 0.05 * abs(expected).max()


@pytest.mark.parametrize("name", ["wrn10_2", "resnet18", "efficientnet_tiny"])
def test_frozen_batch_norm_trains_with_running_averages(name):
  x = images(4, 16, 16, 3)
  options = {"dropout_rate": 0.0, "stochastic_depth_rate": 0.0}
  options = options if name.startswith("eff") else {}
  model = create_model(name, 10, freeze_batch_norm=True, **options)
  variables = quick_variables(model, x)
  variables["batch_stats"] = jax.tree.map(
    lambda s: s + 0.1, variables["batch_stats"]
  )
  logits, stats = train_pass(model, variables, x)
  assert_trees_close(stats, variables["batch_stats"])
  expected = eval_pass(model, variables, x)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_groups_share_statistics_within_a_group():
  x = images(8, 8, 8, 3)
  model = create_model(
    "wrn10_2",
    10,
    batch_norm_axis=parallel.AXIS,
    batch_norm_groups=[[0, 1], [2, 3]],
  )
  variables = quick_variables(model, x)

  def forward(variables, x):
    return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

  grouped = parallel.map_over_devices(
    forward, in_axes=(None, 0), out_axes=0, devices=jax.devices()[:4]
  )
  logits = grouped(variables, x.reshape(4, 2, 8, 8, 3))
  local = create_model("wrn10_2", 10)
  expected = [train_pass(local, variables, half)[0] for half in (x[:4], x[4:])]
  np.testing.assert_allclose(
    logits.reshape(8, 10), jnp.concatenate(expected), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("name", SMALL)
def test_remat_keeps_names_and_recomputes_blocks(name):
  x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  shapes, programs = [], []
  for remat in (False, True):
    model = create_model(name, 10, remat=remat)
    _, variables = init_shapes(model, x, train=False)
    shapes.append(variables)
    forward = functools.partial(model.apply, train=False)
    programs.append(str(jax.make_jaxpr(forward)(variables, x)))
  assert shapes[0] == shapes[1]
  # Plain stacks have no blocks.
  assert ["remat" in p for p in programs] == [False, name != "cnn8"]


def test_remat_keeps_gradients_and_random_draws():
  x = images(2, 8, 8, 16)
  gradients = []
  for remat in (False, True):
    settings = LayerSettings(train=True, remat=remat)
    block = layers.block_class(ShakeShakeBlock, settings)
    gradient, variables = block_gradient(block(16, (1, 1), settings), x)
    gradients.append(gradient(variables["params"])[1])
  assert_trees_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  "name",
  ["shake_shake_mini", "pyramidnet_mini_shakedrop", "efficientnet_tiny"],
)
def test_randomness_follows_the_dropout_key(name):
  x = images(4, 16, 16, 3)
  model = create_model(name, 10)
  variables = quick_variables(model, x)
  first, again, other = (
    train_pass(model, variables, x, seed)[0] for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert abs(first - other).max() > 1e-3


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(9, 13), (5, 5)])
def test_odd_image_sizes(name, size):
  model = create_model(name, 10)
  x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  logits, _ = init_shapes(model, x, train=False)
  assert logits.shape == (2, 10)


def canonical_names():
  # Larger members of a family run the same code, and take longer to trace.
  large = re.compile(
    "272|110|b[0-8]|l2|101|152|200|resnet3|56$|39|26|16_8|28|40|_(ti|s|l)[13]"
  )
  return [
    name for name in known_models() if name.islower() and not large.search(name)
  ]


@pytest.mark.parametrize("name", canonical_names())
def test_every_family_accepts_digits(name):
  model = create_model(name, 7)
  x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
  _, variables = init_shapes(model, x, train=False)

  def forward(variables, x):
    return model.apply(
      variables,
      x,
      train=True,
      true_gradient=True,
      rngs={"dropout": jax.random.key(1)},
      mutable=["batch_stats"],
    )[0]

  logits = jax.eval_shape(forward, variables, x)
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def test_full_size_network_runs_in_seconds():
  model = create_model("wrn28_10", 100)
  x = images(1, 32, 32, 3)
  start = time.monotonic()
  logits = eval_pass(model, quick_variables(model, x), x)
  assert logits.shape == (1, 100) and np.isfinite(logits).all()
  assert time.monotonic() - start < 60


@pytest.mark.parametrize("precision", [None, "high", "highest"])
def test_all_products_have_the_precision_of_the_config(precision):
  """Forward and backward, recomputed blocks too, as a TPU compiles them."""
  model = create_model("wrn10_1", 10, precision=precision, remat=True)
  x = np.ones((2, 8, 8, 3), np.float32)
  _, variables = init_shapes(model, x, train=False)

  def loss(variables):
    return model.apply(variables, x, train=False).sum()

  with target.compiling_for("tpu"):
    text = str(jax.make_jaxpr(jax.grad(loss))(variables))
  found = set(re.findall(r"precision=(\S+)", text))
  names = {None: "None", "high": "HIGH", "highest": "HIGHEST"}
  assert found
  assert len(re.findall("conv_general_dilated|dot_general", text)) > 20
  assert all(names[precision] in value for value in found), found
