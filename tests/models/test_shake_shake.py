"""Shake-Shake networks, against a second, plain computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import LayerSettings, create_model
from sam_jax.models.shake_shake import ShakeShakeBlock, Shortcut
from tests.models.golden_models import block_variables, quick_variables
from tests.models.passes import (
  conv,
  eval_pass,
  has_true_gradient,
  images,
  norm,
)


def plain_shortcut(x, params, stats, stride):
  """Take every `stride`-th pixel, and its neighbor below to the right."""
  below = jnp.zeros_like(x).at[:, :-1, :-1].set(x[:, 1:, 1:])
  paths = [
    conv(pixels[:, ::stride, ::stride], params[name])
    for pixels, name in ((x, "conv_h1"), (below, "conv_h2"))
  ]
  merged = jnp.concatenate(paths, axis=-1)
  return norm(merged, params["bn_residual"], stats["bn_residual"])


def plain_block(x, params, stats, stride):
  """Take the mean of both branches, as in evaluation mode."""
  y = 0
  for k in "ab":
    branch = conv(jax.nn.relu(x), params[f"conv_{k}_1"], stride)
    branch = norm(branch, params[f"bn_{k}_1"], stats[f"bn_{k}_1"])
    branch = conv(jax.nn.relu(branch), params[f"conv_{k}_2"])
    y += norm(branch, params[f"bn_{k}_2"], stats[f"bn_{k}_2"]) / 2
  if "Shortcut_0" in params:
    name = "Shortcut_0"
    x = plain_shortcut(x, params[name], stats[name], stride)
  return x + y


def test_network():
  x = images(2, 16, 16, 3)
  model = create_model("shake_shake_mini", 10)
  variables = quick_variables(model, x)
  logits = eval_pass(model, variables, x)

  params, stats = variables["params"], variables["batch_stats"]
  y = norm(conv(x, params["init_conv"]), params["init_bn"], stats["init_bn"])
  for group in range(3):
    for block in range(2):
      path = f"WideResnetShakeShakeGroup_{group}", f"ShakeShakeBlock_{block}"
      stride = 2 if group and not block else 1
      y = plain_block(
        y, params[path[0]][path[1]], stats[path[0]][path[1]], stride
      )
  pooled = jax.nn.relu(y).mean(axis=(1, 2))
  dense = params["Dense_3"]
  expected = pooled @ dense["kernel"] + dense["bias"]
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [4, 5])
def test_shortcut_at_the_border(side):
  x = images(2, side, side, 3)
  block = Shortcut(8, (2, 2), LayerSettings())
  variables = block_variables(block, x)
  expected = plain_shortcut(x, variables["params"], variables["batch_stats"], 2)
  actual = block.apply(variables, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("true_gradient", [False, True])
def test_true_gradient_of_a_block(true_gradient):
  settings = LayerSettings(train=True, true_gradient=true_gradient)
  block = ShakeShakeBlock(16, (1, 1), settings)
  x = images(4, 8, 8, 16)
  assert has_true_gradient(block, x, "bn_a_2") == true_gradient
