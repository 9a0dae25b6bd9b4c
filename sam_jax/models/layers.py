"""Layers shared by every model family.

Names.  Parameter trees carry the names of the official release
(google-research/sam), so that its parameters load without renaming.  Its
unnamed submodules are numbered by ONE counter per parent, whatever their class
(`Conv_0`, `BatchNorm_1`, `Conv_2`), where Linen counts each class by itself.
All models here therefore pass `name=` explicitly, with the number that the
official counter would give; explicitly named submodules do not advance it.

Randomness.  Each random layer is split in two: `draw_*` turns a key into
per-example draws, and a pure function applies them.  All keys come from the
one rng collection "dropout".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
Initializer = nn.initializers.Initializer
AxisGroups = tuple[tuple[int, ...], ...]
Strides = tuple[int, int]

# ShakeDrop's ranges and the final probability of dropping a block, from
# https://arxiv.org/abs/1802.02375, table 1 ("per image", alpha in [-1, 1]).
ALPHA_RANGE = (-1.0, 1.0)
BETA_RANGE = (0.0, 1.0)

# Kaiming initialisation in fan-out mode, as the AutoAugment code base used it.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def dense_init(
  key: Array, shape: tuple[int, int], dtype: Any = jnp.float32
) -> Array:
  """U[-s, s] with s = 1 / sqrt(number of outputs), for `[in, out]` kernels."""
  limit = shape[1] ** -0.5
  return jax.random.uniform(key, shape, dtype, minval=-limit, maxval=limit)


@dataclasses.dataclass(frozen=True)
class LayerSettings:
  """What all layers of one model share, in one call.

  Attributes:
    dtype: of activations.  Parameters, statistics and logits stay float32.
    batch_norm_axis: mapped axis over which batch statistics are averaged in
      train mode; None keeps them local to the device.
    batch_norm_groups: `axis_index_groups` of that average; None is all devices.
    freeze_batch_norm: always normalise by running averages, never update them.
    normalise: False drops batch normalisation altogether.
    momentum: share of the old running average in the new one.
    epsilon: added to the variance.
    remat: recompute each block's activations in the backward pass.
    train: batch statistics and random layers (set anew for each call).
    true_gradient: backward coefficients of shake layers equal the forward ones.
  """

  dtype: Any = jnp.float32
  batch_norm_axis: str | None = None
  batch_norm_groups: AxisGroups | None = None
  freeze_batch_norm: bool = False
  normalise: bool = True
  momentum: float = 0.9
  epsilon: float = 1e-5
  remat: bool = False
  train: bool = False
  true_gradient: bool = False

  def for_call(
    self, module: nn.Module, train: bool, true_gradient: bool
  ) -> "LayerSettings":
    """These settings in train or eval mode; initialisation draws nothing."""
    train = train and not module.is_initializing()
    return dataclasses.replace(self, train=train, true_gradient=true_gradient)


def block_class(
  cls: type[nn.Module], settings: LayerSettings
) -> Callable[..., nn.Module]:
  """`cls`, rematerialised if the settings ask for it; names do not change."""
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
  """Convolution by a square kernel, `[N,H,W,C]` to `[N,h,w,features]`."""
  return nn.Conv(
    features,
    (kernel, kernel),
    strides,
    padding=padding,
    use_bias=use_bias,
    kernel_init=init,
    dtype=settings.dtype,
    name=name,
  )(x)


def batch_norm(
  x: Array,
  settings: LayerSettings,
  *,
  name: str,
  scale_init: Initializer = nn.initializers.ones,
) -> Array:
  """Batch normalisation over all axes but the last; identity if disabled."""
  if not settings.normalise:
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
  """Batch normalisation, then ReLU."""
  return nn.relu(batch_norm(x, settings, name=name))


def dense_logits(
  x: Array, num_classes: int, *, name: str, init: Initializer = dense_init
) -> Array:
  """Global average pool and linear layer: `[N,H,W,C]` to f32 `[N,classes]`."""
  x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
  return nn.Dense(num_classes, kernel_init=init, name=name)(x)


def zero_pad_shortcut(x: Array, channels: int, strides: Strides) -> Array:
  """Parameter-free shortcut: average pool by `strides`, pad channels by zeros.

  An odd side is rounded up, as 'SAME' convolutions do, and its last window
  averages the pixels that exist.  Sides that divide evenly, the only ones the
  official code accepts, give the official result.

  Args:
    x: `[N,H,W,C]`.
    channels: channels of the result, at least C.
    strides: window and stride of the pool.

  Returns:
    `[N, ceil(H/sh), ceil(W/sw), channels]`, the zeros last.
  """
  if strides != (1, 1):
    x = nn.avg_pool(x, strides, strides, "SAME", count_include_pad=False)
  return jnp.pad(x, [(0, 0)] * 3 + [(0, channels - x.shape[-1])])


def draw_shake_shake(key: Array, batch: int) -> tuple[Array, Array]:
  """Forward and backward gates, each uniform in [0, 1], f32 `[batch,1,1,1]`."""
  keys = jax.random.split(key)
  shape = (batch, 1, 1, 1)
  return jax.random.uniform(keys[0], shape), jax.random.uniform(keys[1], shape)


def shake_shake(
  a: Array, b: Array, forward: Array, backward: Array, *, true_gradient: bool
) -> Array:
  """Random mix of two branches, https://arxiv.org/abs/1705.07485.

  Args:
    a: `[N,H,W,C]`, first branch.
    b: like `a`, second branch.
    forward: `[N,1,1,1]`, weight of `a` in the value.
    backward: `[N,1,1,1]`, weight of `a` in the gradient.
    true_gradient: ignore `backward`, so that gradient and value agree.

  Returns:
    `forward * a + (1 - forward) * b`, like `a`.
  """
  value = _mix(a, b, forward)
  if true_gradient:
    return value
  return _with_gradient_of(value, _mix(a, b, backward))


def draw_shake_drop(
  key: Array, batch: int, keep_probability: float
) -> tuple[Array, Array, Array]:
  """ShakeDrop's b, alpha and beta, each f32 `[batch,1,1,1]`.

  b is 1 with `keep_probability` and else 0; alpha and beta are uniform in
  `ALPHA_RANGE` and `BETA_RANGE`.
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
  """Random scale of a residual branch, https://arxiv.org/abs/1802.02375, eq 6.

  Args:
    x: `[N,H,W,C]`.
    mask: `[N,1,1,1]`, 1 where the branch is kept as it is.
    alpha: `[N,1,1,1]`, scale of the value where mask is 0.
    beta: `[N,1,1,1]`, scale of the gradient where mask is 0.
    true_gradient: ignore `beta`, so that gradient and value agree.

  Returns:
    `(mask + alpha - mask * alpha) * x`, like `x`.
  """
  value = x * (mask + alpha - mask * alpha).astype(x.dtype)
  if true_gradient:
    return value
  return _with_gradient_of(
    value, x * (mask + beta - mask * beta).astype(x.dtype)
  )


def shake_drop_expectation(keep_probability: float) -> float:
  """The mean forward scale of ShakeDrop, which eval mode multiplies by."""
  mean_alpha = sum(ALPHA_RANGE) / 2
  return keep_probability + (1 - keep_probability) * mean_alpha


def draw_keep(key: Array, shape: tuple[int, ...], probability: float) -> Array:
  """Bool array of `shape`, True with `probability`."""
  return jax.random.bernoulli(key, probability, shape)


def dropout(
  x: Array, key: Array, rate: float, *, per_example: bool = False
) -> Array:
  """Zeros with probability `rate`, else `x / (1 - rate)`.

  Args:
    x: `[N,...]`.
    key: PRNG key.
    rate: in [0, 1).
    per_example: one draw for each example (stochastic depth,
      https://arxiv.org/abs/1603.09382) instead of one for each value.

  Returns:
    Like `x`, which is its expected value.
  """
  shape = (len(x),) + (1,) * (x.ndim - 1) if per_example else x.shape
  keep = draw_keep(key, shape, 1 - rate)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _mix(a: Array, b: Array, weight: Array) -> Array:
  weight = weight.astype(a.dtype)
  return a * weight + b * (1 - weight)


def _with_gradient_of(value: Array, surrogate: Array) -> Array:
  # Exact in any dtype: what is added to the value is zero, its slope is not.
  slope = surrogate - jax.lax.stop_gradient(surrogate)
  return jax.lax.stop_gradient(value) + slope
