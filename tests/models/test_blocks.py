"""Blocks without recorded numbers, against a second, plain computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import create_model
from sam_jax.models.layers import LayerSettings
from sam_jax.models.resnet import CifarBlock
from sam_jax.models.shake_shake import Shortcut
from tests.models.golden_models import block_variables, quick_variables


def images(*shape):
  return jax.random.normal(jax.random.key(0), shape)


def conv(x, params, stride=1):
  return jax.lax.conv_general_dilated(
    x,
    params["kernel"],
    (stride, stride),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def norm(x, params, stats):
  x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
  return x * params["scale"] + params["bias"]


def shake_shake_shortcut(x, params, stats, stride):
  """Every `stride`-th pixel, and its neighbour below to the right."""
  below = jnp.zeros_like(x).at[:, :-1, :-1].set(x[:, 1:, 1:])
  paths = [
    conv(pixels[:, ::stride, ::stride], params[name])
    for pixels, name in ((x, "conv_h1"), (below, "conv_h2"))
  ]
  merged = jnp.concatenate(paths, axis=-1)
  return norm(merged, params["bn_residual"], stats["bn_residual"])


def shake_shake_block(x, params, stats, stride):
  """Eval mode: the mean of both branches."""
  y = 0
  for k in "ab":
    branch = conv(jax.nn.relu(x), params[f"conv_{k}_1"], stride)
    branch = norm(branch, params[f"bn_{k}_1"], stats[f"bn_{k}_1"])
    branch = conv(jax.nn.relu(branch), params[f"conv_{k}_2"])
    y += norm(branch, params[f"bn_{k}_2"], stats[f"bn_{k}_2"]) / 2
  if "Shortcut_0" in params:
    name = "Shortcut_0"
    x = shake_shake_shortcut(x, params[name], stats[name], stride)
  return x + y


def test_shake_shake_network():
  x = images(2, 16, 16, 3)
  model = create_model("shake_shake_mini", 10)
  variables = quick_variables(model, x)
  logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)

  params, stats = variables["params"], variables["batch_stats"]
  y = norm(conv(x, params["init_conv"]), params["init_bn"], stats["init_bn"])
  for group in range(3):
    for block in range(2):
      path = f"WideResnetShakeShakeGroup_{group}", f"ShakeShakeBlock_{block}"
      stride = 2 if group and not block else 1
      y = shake_shake_block(
        y, params[path[0]][path[1]], stats[path[0]][path[1]], stride
      )
  pooled = jax.nn.relu(y).mean(axis=(1, 2))
  dense = params["Dense_3"]
  expected = pooled @ dense["kernel"] + dense["bias"]
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [4, 5])
def test_shake_shake_shortcut_at_the_border(side):
  x = images(2, side, side, 3)
  block = Shortcut(8, (2, 2), LayerSettings())
  variables = block_variables(block, x)
  expected = shake_shake_shortcut(
    x, variables["params"], variables["batch_stats"], 2
  )
  actual = block.apply(variables, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shortcut", [False, True])
def test_cifar_resnet_block(shortcut):
  x = images(2, 8, 8, 3)
  block = CifarBlock(5, (2, 2), shortcut, LayerSettings())
  variables = block_variables(block, x)
  params, stats = variables["params"], variables["batch_stats"]
  y = norm(
    conv(x, params["Conv_0"], 2), params["BatchNorm_1"], stats["BatchNorm_1"]
  )
  y = conv(jax.nn.relu(y), params["Conv_2"])
  y = norm(y, params["BatchNorm_3"], stats["BatchNorm_3"])
  if shortcut:
    y = y.at[..., :3].add(x[:, ::2, ::2])
  actual = block.apply(variables, x)
  np.testing.assert_allclose(actual, jax.nn.relu(y), rtol=1e-4, atol=1e-5)
