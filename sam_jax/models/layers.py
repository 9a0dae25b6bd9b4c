"""Layers that the networks share.

Names: parameter trees carry the names of the official release
(google-research/sam), so that its parameters load without renaming. The
official code numbers unnamed submodules by ONE counter per parent, whatever
their class (`Conv_0`, `BatchNorm_1`, `Conv_2`), where Linen counts each class
separately. All networks here therefore pass `name=`, with the number that the
official counter would give; explicitly named submodules do not advance it.

Randomness: each random layer is split in two. `draw_*` turns a key into
per-example draws, and a pure function applies them. All keys come from the rng
collection "dropout".
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sam_jax.models.classifier import LayerSettings
from sam_jax.models.convolution import convolve

Array = jax.Array
Initializer = nn.initializers.Initializer
Strides = tuple[int, int]

# Ranges of ShakeDrop's coefficients: Yamada et al. (2018), table 1 ("per
# image", alpha in [-1, 1]).
ALPHA_RANGE = (-1.0, 1.0)
BETA_RANGE = (0.0, 1.0)

# Kaiming initialization in fan-out mode, as in the AutoAugment code base.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def dense_init(
  key: Array, shape: tuple[int, int], dtype: Any = jnp.float32
) -> Array:
  """Draw a kernel [in, out] from U[-s, s], where s = 1 / sqrt(out)."""
  limit = shape[1] ** -0.5
  return jax.random.uniform(key, shape, dtype, minval=-limit, maxval=limit)


def block_class(
  cls: type[nn.Module], settings: LayerSettings
) -> Callable[..., nn.Module]:
  """Return `cls`, rematerialized if the settings ask for it."""
  return nn.remat(cls) if settings.remat else cls


def conv(
  x: Array,
  features: int,
  kernel: int,
  settings: LayerSettings,
  *,
  name: str,
  strides: Strides = (1, 1),
  padding: str | int = "SAME",
  init: Initializer = conv_init,
  use_bias: bool = False,
) -> Array:
  """Convolve [N, H, W, C] with a square kernel to [N, h, w, features]."""
  return nn.Conv(
    features,
    (kernel, kernel),
    strides,
    padding=padding,
    use_bias=use_bias,
    kernel_init=init,
    dtype=settings.dtype,
    conv_general_dilated=convolve,
    name=name,
  )(x)


def batch_norm(
  x: Array,
  settings: LayerSettings,
  *,
  name: str,
  scale_init: Initializer = nn.initializers.ones,
) -> Array:
  """Normalize over all axes but the last, unless the settings disable it."""
  if not settings.normalize:
    return x
  return nn.BatchNorm(
    use_running_average=not settings.train or settings.freeze_batch_norm,
    axis_name=settings.batch_norm_axis,
    axis_index_groups=settings.batch_norm_groups,
    momentum=settings.momentum,
    epsilon=settings.epsilon,
    dtype=settings.dtype,
    scale_init=scale_init,
    name=name,
  )(x)


def norm_relu(x: Array, settings: LayerSettings, *, name: str) -> Array:
  """Apply batch normalization, then ReLU."""
  return nn.relu(batch_norm(x, settings, name=name))


def layer_norm(
  x: Array, settings: LayerSettings, *, name: str, **options: Any
) -> Array:
  """Normalize over the last axis.

  Args:
    x: Float array [..., C].
    settings: Shared layer settings; `normalize` is for batch normalization.
    name: Name of the layer.
    **options: Arguments of `nn.LayerNorm` in place of those here.
  """
  options = {"epsilon": 1e-6, "dtype": settings.dtype} | options
  return nn.LayerNorm(name=name, **options)(x)


def patches(
  x: Array, features: int, patch: int, settings: LayerSettings, *, name: str
) -> Array:
  """Map the square patches of [N, H, W, C] to tokens [N, tokens, features]."""
  x = conv(
    x,
    features,
    patch,
    settings,
    strides=(patch, patch),
    padding="VALID",
    init=nn.initializers.lecun_normal(),
    use_bias=True,
    name=name,
  )
  return x.reshape(len(x), -1, features)


def dense_logits(
  x: Array, num_classes: int, *, name: str, init: Initializer = dense_init
) -> Array:
  """Map [N, H, W, C] to float32 [N, num_classes]: average pool, then linear."""
  x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
  return nn.Dense(num_classes, kernel_init=init, name=name)(x)


def zero_pad_shortcut(x: Array, channels: int, strides: Strides) -> Array:
  """Average-pool by `strides`, then pad the channels with zeros.

  An odd side is rounded up, as by 'SAME' convolutions, and its last window
  averages the pixels that exist. Sides that divide evenly, the only ones that
  the official code accepts, give the official result.

  Args:
    x: Float array [N, H, W, C].
    channels: Channels of the result, at least C.
    strides: Window and stride of the pool.

  Returns:
    Float array [N, ceil(H/stride), ceil(W/stride), channels], the zeros last.
  """
  if strides != (1, 1):
    x = nn.avg_pool(x, strides, strides, "SAME", count_include_pad=False)
  return jnp.pad(x, [(0, 0)] * 3 + [(0, channels - x.shape[-1])])


def draw_shake_shake(key: Array, batch: int) -> tuple[Array, Array]:
  """Draw forward and backward gates, float32 [batch, 1, 1, 1] in [0, 1)."""
  keys = jax.random.split(key)
  shape = (batch, 1, 1, 1)
  return jax.random.uniform(keys[0], shape), jax.random.uniform(keys[1], shape)


def shake_shake(
  a: Array, b: Array, forward: Array, backward: Array, *, true_gradient: bool
) -> Array:
  """Mix two branches at random.

  Args:
    a: Float array [N, H, W, C], the first branch.
    b: Array like `a`, the second branch.
    forward: Float array [N, 1, 1, 1], weights of `a` in the value.
    backward: Float array [N, 1, 1, 1], weights of `a` in the gradient.
    true_gradient: Ignore `backward`, so that gradient and value agree.

  Returns:
    `forward * a + (1 - forward) * b`, of the shape and dtype of `a`.

  Reference: Gastaldi (2017), https://arxiv.org/abs/1705.07485.
  """
  value = _mix(a, b, forward)
  if true_gradient:
    return value
  return _with_gradient_of(value, _mix(a, b, backward))


def draw_shake_drop(
  key: Array, batch: int, keep_probability: float
) -> tuple[Array, Array, Array]:
  """Draw ShakeDrop's mask, alpha and beta, each float32 [batch, 1, 1, 1].

  The mask is 1 with `keep_probability` and 0 otherwise; alpha and beta are
  uniform in `ALPHA_RANGE` and `BETA_RANGE`.
  """
  mask_key, alpha_key, beta_key = jax.random.split(key, 3)
  shape = (batch, 1, 1, 1)
  mask = jax.random.bernoulli(mask_key, keep_probability, shape)
  alpha = jax.random.uniform(alpha_key, shape, jnp.float32, *ALPHA_RANGE)
  beta = jax.random.uniform(beta_key, shape, jnp.float32, *BETA_RANGE)
  return mask.astype(jnp.float32), alpha, beta


def shake_drop(
  x: Array, mask: Array, alpha: Array, beta: Array, *, true_gradient: bool
) -> Array:
  """Scale a residual branch at random.

  Args:
    x: Float array [N, H, W, C].
    mask: Float array [N, 1, 1, 1], 1 where the branch is kept as it is.
    alpha: Float array [N, 1, 1, 1], scale of the value where the mask is 0.
    beta: Float array [N, 1, 1, 1], scale of the gradient where the mask is 0.
    true_gradient: Ignore `beta`, so that gradient and value agree.

  Returns:
    `(mask + alpha - mask * alpha) * x`, of the shape and dtype of `x`.

  Reference: Yamada et al. (2018), https://arxiv.org/abs/1802.02375, eq. 6.
  """
  value = x * (mask + alpha - mask * alpha).astype(x.dtype)
  if true_gradient:
    return value
  return _with_gradient_of(
    value, x * (mask + beta - mask * beta).astype(x.dtype)
  )


def shake_drop_expectation(keep_probability: float) -> float:
  """Return ShakeDrop's mean scale of values, its scale in evaluation mode."""
  mean_alpha = sum(ALPHA_RANGE) / 2
  return keep_probability + (1 - keep_probability) * mean_alpha


def draw_keep(key: Array, shape: tuple[int, ...], probability: float) -> Array:
  """Draw a bool array of `shape` that is True with `probability`."""
  return jax.random.bernoulli(key, probability, shape)


def dropout(
  x: Array, key: Array, rate: float, *, per_example: bool = False
) -> Array:
  """Return zero with probability `rate`, and `x / (1 - rate)` otherwise.

  Args:
    x: Float array [N, ...].
    key: Random key.
    rate: Probability in [0, 1).
    per_example: Draw once for each example (stochastic depth, Huang et al.,
      ECCV 2016, https://arxiv.org/abs/1603.09382), not once for each value.

  Returns:
    Array of the shape and dtype of `x`, which is its expected value.
  """
  shape = (len(x),) + (1,) * (x.ndim - 1) if per_example else x.shape
  keep = draw_keep(key, shape, 1 - rate)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _mix(a: Array, b: Array, weight: Array) -> Array:
  weight = weight.astype(a.dtype)
  return a * weight + b * (1 - weight)


def _with_gradient_of(value: Array, surrogate: Array) -> Array:
  # Exact in any dtype: the sum adds zero to the value, but not to its slope.
  slope = surrogate - jax.lax.stop_gradient(surrogate)
  return jax.lax.stop_gradient(value) + slope
