"""Random layers, shortcuts, initializers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import create_model, layers
from tests.models.golden_models import flattened
from tests.models.passes import images

DRAWS = 20_000


def shake_shake_pass(key, a, b, true_gradient=False):
  draws = layers.draw_shake_shake(key, len(a))
  return layers.shake_shake(a, b, *draws, true_gradient=true_gradient)


def shake_drop_pass(key, x, true_gradient=False, keep_probability=0.7):
  draws = layers.draw_shake_drop(key, len(x), keep_probability)
  return layers.shake_drop(x, *draws, true_gradient=true_gradient)


def test_shake_shake_expectation_is_the_eval_mode():
  a, b = jnp.full((DRAWS, 1, 1, 1), 3.0), jnp.full((DRAWS, 1, 1, 1), -1.0)
  mixed = shake_shake_pass(jax.random.key(0), a, b)
  # The standard deviation of one draw is 4 / sqrt(12).
  assert abs(mixed.mean() - 1.0) < 5 * 4 / np.sqrt(12 * DRAWS)
  assert mixed.min() >= -1 and mixed.max() <= 3
  # Examples draw independently.
  assert np.unique(mixed).size > 0.9 * DRAWS


@pytest.mark.parametrize("keep_probability", [0.5, 0.9])
def test_shake_drop_expectation_is_the_eval_mode(keep_probability):
  x = jnp.ones((DRAWS, 1, 1, 1))
  y = shake_drop_pass(jax.random.key(0), x, keep_probability=keep_probability)
  expected = layers.shake_drop_expectation(keep_probability)
  assert abs(y.mean() - expected) < 5 / np.sqrt(DRAWS)
  assert abs((y == 1).mean() - keep_probability) < 3 / np.sqrt(DRAWS)
  assert y.min() >= -1 and y.max() <= 1


@pytest.mark.parametrize("per_example", [False, True])
def test_dropout_keeps_the_mean(per_example):
  x = jnp.ones((5000, 2, 2, 1))
  y = layers.dropout(x, jax.random.key(0), 0.3, per_example=per_example)
  assert abs(y.mean() - 1) < 0.05
  assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
  constant = (y == y[:, :1, :1]).all(axis=(1, 2, 3))
  assert constant.all() == per_example


def directional_derivatives(fn, *xs):
  """Return reverse-mode and central-difference derivatives in a direction."""
  directions = [images(*x.shape, seed=7 + i) for i, x in enumerate(xs)]
  value_and_grads = jax.jit(jax.value_and_grad(lambda xs: fn(*xs)))
  _, grads = value_and_grads(list(xs))
  reverse = sum(np.vdot(g, d) for g, d in zip(grads, directions, strict=True))
  step = np.float32(1e-2)
  ahead = [x + step * d for x, d in zip(xs, directions, strict=True)]
  behind = [x - step * d for x, d in zip(xs, directions, strict=True)]
  difference = value_and_grads(ahead)[0] - value_and_grads(behind)[0]
  return reverse, difference / (2 * step)


@pytest.mark.parametrize("layer", [shake_shake_pass, shake_drop_pass])
@pytest.mark.parametrize("true_gradient", [False, True])
def test_true_gradient_is_the_derivative(layer, true_gradient):
  xs = [
    images(6, 2, 2, 3, seed=i) for i in range(1 + (layer is shake_shake_pass))
  ]

  def fn(*xs):
    y = layer(jax.random.key(3), *xs, true_gradient=true_gradient)
    return jnp.sum(y * images(*y.shape, seed=5))

  reverse, difference = directional_derivatives(fn, *xs)
  # Without `true_gradient` the backward coefficients are independent.
  assert np.isclose(reverse, difference, rtol=1e-3) == true_gradient


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shake_values_do_not_depend_on_the_gradient_mode(dtype):
  key = jax.random.key(0)
  a, b = (images(4, 2, 2, 3, seed=seed).astype(dtype) for seed in (0, 1))
  for layer, xs in ((shake_shake_pass, (a, b)), (shake_drop_pass, (a,))):
    values = [layer(key, *xs, true_gradient=mode) for mode in (False, True)]
    assert values[0].dtype == dtype
    np.testing.assert_array_equal(*values)


def test_backward_coefficients_are_the_drawn_ones():
  shape = (1, 1, 1, 1)
  a, b, forward, backward = (jnp.full(shape, v) for v in (2.0, 5.0, 0.25, 0.75))

  def mix(a, b):
    return layers.shake_shake(
      a, b, forward, backward, true_gradient=False
    ).sum()

  value, grads = jax.value_and_grad(mix, argnums=(0, 1))(a, b)
  assert value == pytest.approx(0.25 * 2 + 0.75 * 5)
  assert [float(g[0, 0, 0, 0]) for g in grads] == pytest.approx([0.75, 0.25])

  def scale(x):
    alpha, beta = jnp.full(shape, -0.5), jnp.full(shape, 0.125)
    mask = jnp.zeros(shape)
    return layers.shake_drop(x, mask, alpha, beta, true_gradient=False).sum()

  value, grad = jax.value_and_grad(scale)(a)
  assert (float(value), float(grad[0, 0, 0, 0])) == (-1.0, 0.125)


def test_zero_pad_shortcut():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  y = layers.zero_pad_shortcut(x, 3, (2, 2))
  np.testing.assert_array_equal(y[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
  assert not y[..., 1:].any()
  odd = layers.zero_pad_shortcut(jnp.ones((1, 5, 7, 1)), 1, (2, 2))
  np.testing.assert_array_equal(odd, np.ones((1, 3, 4, 1)))


def initial(model, *names, size=32):
  """Return some initial parameters; XLA computes no others."""

  @jax.jit
  def init(key):
    x = jnp.zeros((1, size, size, 3))
    params = flattened(model.init(key, x, train=False)["params"])
    return [params[name] for name in names]

  return init(jax.random.key(0))


def assert_moments(values, std, kurtosis):
  values = np.asarray(values, np.float64).ravel()
  assert values.mean() == pytest.approx(0, abs=5 * std / values.size**0.5)
  assert values.std() == pytest.approx(std, rel=5 / values.size**0.5)
  fourth = (values**4).mean() / values.var() ** 2
  assert fourth == pytest.approx(kurtosis, abs=25 / values.size**0.5)


# Fourth moments over squared variances; jax truncates normals at two
# deviations.
NORMAL, UNIFORM, TRUNCATED = 3.0, 1.8, 2.37


def test_initializers_of_cifar_models():
  conv, dense, bias, scale = initial(
    create_model("wrn16_4", 100),
    "WideResnetGroup_2/WideResnetBlock_0/conv1/kernel",
    "Dense_3/kernel",
    "Dense_3/bias",
    "pre-pool-bn/scale",
  )
  # 128 channels in, 256 out: the fan-out counts.
  assert_moments(conv, (2 / (9 * 256)) ** 0.5, NORMAL)
  assert_moments(dense, 100**-0.5 / 3**0.5, UNIFORM)
  assert abs(dense).max() <= 0.1
  assert not bias.any()
  assert (scale == 1).all()


def test_initializers_of_resnet():
  conv, dense, inner, last = initial(
    create_model("resnet18", 100),
    "ResNetBlock_6/Conv_0/kernel",
    "Dense_8/kernel",
    "ResNetBlock_7/BatchNorm_1/scale",
    "ResNetBlock_7/BatchNorm_3/scale",
  )
  # 256 channels in, 512 out: here the fan-in counts.
  assert_moments(conv, (9 * 256) ** -0.5, TRUNCATED)
  assert_moments(dense, 512**-0.5, TRUNCATED)
  assert (inner == 1).all()
  # Residual branches start at zero.
  assert not last.any()


def test_initializers_of_efficientnet():
  head, depthwise, dense = initial(
    create_model("efficientnet_b0", 100),
    "Head_17/conv2d/kernel",
    "MBConvBlock_15/depthwise_conv2d/depthwise_kernel",
    "Head_17/dense/kernel",
  )
  assert_moments(head, (2 / 1280) ** 0.5, TRUNCATED)
  # One output per channel: the fan-out is the size of the kernel.
  assert_moments(depthwise, (2 / 25) ** 0.5, TRUNCATED)
  assert_moments(dense, (1 / 300) ** 0.5, UNIFORM)
