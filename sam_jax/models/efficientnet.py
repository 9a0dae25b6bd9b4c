"""EfficientNet B0 to B8 and L2 (Tan & Le, ICML 2019).

The network of google-research/sam, which is that of TensorFlow. Depthwise
kernels keep TensorFlow's shape, so that its checkpoints fit.

Reference: https://arxiv.org/abs/1905.11946.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.layers import Strides
from sam_jax.models.registry import register

Array = jax.Array

_DEPTH_DIVISOR = 8
_init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
_dense_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Stage(NamedTuple):
  """Blocks of equal shape, before scaling by width and depth."""

  inputs: int
  outputs: int
  kernel: int
  repeats: int
  expand_ratio: int
  stride: int


class EfficientNetConfig(NamedTuple):
  """One member of the family.

  Attributes:
    width: Factor on numbers of channels.
    depth: Factor on numbers of blocks.
    resolution: Side in pixels of the images that it was designed for.
    dropout_rate: Rate of dropout before the linear layer.
    stages: Shapes of the blocks.
    stem: Channels of the first convolution, before scaling.
    top: Channels of the last convolution, before scaling.
  """

  width: float
  depth: float
  resolution: int
  dropout_rate: float
  stages: tuple[Stage, ...] = (
    Stage(32, 16, 3, 1, 1, 1),
    Stage(16, 24, 3, 2, 6, 2),
    Stage(24, 40, 5, 2, 6, 2),
    Stage(40, 80, 3, 3, 6, 2),
    Stage(80, 112, 5, 3, 6, 1),
    Stage(112, 192, 5, 4, 6, 2),
    Stage(192, 320, 3, 1, 6, 1),
  )
  stem: int = 32
  top: int = 1280

  def channels(self, channels: int) -> int:
    """Return `channels` scaled: the nearest multiple of 8 that is >= 90%."""
    scaled = channels * self.width
    steps = int(scaled + _DEPTH_DIVISOR / 2) // _DEPTH_DIVISOR
    rounded = max(_DEPTH_DIVISOR, steps * _DEPTH_DIVISOR)
    return rounded + _DEPTH_DIVISOR * (rounded < 0.9 * scaled)

  def blocks(self) -> list[Stage]:
    """Return one scaled `Stage`, with `repeats` = 1, for each block."""
    return [block for stage in self.stages for block in self._blocks(stage)]

  def _blocks(self, stage: Stage) -> Iterator[Stage]:
    inputs, outputs = self.channels(stage.inputs), self.channels(stage.outputs)
    yield stage._replace(inputs=inputs, outputs=outputs, repeats=1)
    for _ in range(math.ceil(self.depth * stage.repeats) - 1):
      yield stage._replace(inputs=outputs, outputs=outputs, repeats=1, stride=1)


CONFIGS = {
  "efficientnet_b0": EfficientNetConfig(1.0, 1.0, 224, 0.2),
  "efficientnet_b1": EfficientNetConfig(1.0, 1.1, 240, 0.2),
  "efficientnet_b2": EfficientNetConfig(1.1, 1.2, 260, 0.3),
  "efficientnet_b3": EfficientNetConfig(1.2, 1.4, 300, 0.3),
  "efficientnet_b4": EfficientNetConfig(1.4, 1.8, 380, 0.4),
  "efficientnet_b5": EfficientNetConfig(1.6, 2.2, 456, 0.4),
  "efficientnet_b6": EfficientNetConfig(1.8, 2.6, 528, 0.5),
  "efficientnet_b7": EfficientNetConfig(2.0, 3.1, 600, 0.5),
  "efficientnet_b8": EfficientNetConfig(2.2, 3.6, 672, 0.5),
  "efficientnet_l2": EfficientNetConfig(4.3, 5.3, 800, 0.5),
  "efficientnet_l2_475": EfficientNetConfig(4.3, 5.3, 475, 0.5),
  # Not in the literature: for tests and quick experiments.
  "efficientnet_tiny": EfficientNetConfig(
    1.0,
    1.0,
    32,
    0.2,
    stages=(
      Stage(8, 8, 3, 1, 1, 1),
      Stage(8, 16, 3, 2, 6, 2),
      Stage(16, 24, 5, 2, 6, 2),
    ),
    stem=8,
    top=64,
  ),
}


class DepthwiseConv(nn.Module):
  """Convolution with one filter per channel and 'SAME' padding.

  Attributes:
    kernel: Side of the kernel; the parameter is [kernel, kernel, C, 1].
    strides: Strides of the convolution.
    settings: Shared layer settings.
  """

  kernel: int
  strides: Strides
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, C]."""
    channels = x.shape[-1]
    shape = (self.kernel, self.kernel, channels, 1)
    kernel = self.param("depthwise_kernel", _init, shape, jnp.float32)
    return jax.lax.conv_general_dilated(
      x.astype(self.settings.dtype),
      jnp.swapaxes(kernel, 2, 3).astype(self.settings.dtype),
      self.strides,
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=channels,
    )


class SqueezeExcite(nn.Module):
  """Squeeze-and-excitation: scale channels by a function of their means.

  Attributes:
    reduced: Channels of the hidden layer.
    settings: Shared layer settings.
  """

  reduced: int
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to the same shape."""
    means = jnp.mean(x, axis=(1, 2), keepdims=True)
    hidden = self._conv(means, self.reduced, "reduce_conv2d_0")
    gates = self._conv(nn.swish(hidden), x.shape[-1], "expand_conv2d_1")
    return x * nn.sigmoid(gates)

  def _conv(self, x: Array, features: int, name: str) -> Array:
    return layers.conv(
      x, features, 1, self.settings, init=_init, use_bias=True, name=name
    )


class MBConvBlock(nn.Module):
  """Mobile inverted bottleneck with squeeze-and-excitation.

  Attributes:
    block: Shape of this block.
    drop_rate: Rate of stochastic depth.
    settings: Shared layer settings.
  """

  block: Stage
  drop_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, inputs] to [N, H/stride, W/stride, outputs]."""
    block, settings = self.block, self.settings
    y, norms = x, 0
    if block.expand_ratio != 1:
      channels = block.inputs * block.expand_ratio
      y = layers.conv(
        y, channels, 1, settings, init=_init, name="expand_conv2d_0"
      )
      y = nn.swish(self._norm(y, 0))
      norms = 1
    strides = (block.stride, block.stride)
    y = DepthwiseConv(block.kernel, strides, settings, name="depthwise_conv2d")(
      y
    )
    y = nn.swish(self._norm(y, norms))
    reduced = max(1, block.inputs // 4)
    y = SqueezeExcite(reduced, settings, name="SqueezeExcite_0")(y)
    name = f"project_conv2d_{norms}"
    y = layers.conv(y, block.outputs, 1, settings, init=_init, name=name)
    y = self._norm(y, norms + 1)
    if block.stride == 1 and block.inputs == block.outputs:
      y = x + self._stochastic_depth(y)
    return y

  def _norm(self, x: Array, index: int) -> Array:
    name = f"batch_normalization_{index}"
    return layers.batch_norm(x, self.settings, name=name)

  def _stochastic_depth(self, y: Array) -> Array:
    if not self.settings.train or not self.drop_rate:
      return y
    key = self.make_rng("dropout")
    return layers.dropout(y, key, self.drop_rate, per_example=True)


class Stem(nn.Module):
  """First convolution, stride 2, BN, swish.

  Attributes:
    channels: Channels of the convolution.
    settings: Shared layer settings.
  """

  channels: int
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/2, W/2, channels]."""
    x = layers.conv(
      x,
      self.channels,
      3,
      self.settings,
      strides=(2, 2),
      init=_init,
      name="conv2d",
    )
    x = layers.batch_norm(x, self.settings, name="batch_normalization")
    return nn.swish(x)


class Head(nn.Module):
  """1x1 convolution, BN, swish, average pool, dropout, linear layer.

  Attributes:
    channels: Channels of the convolution.
    num_classes: Number of logits.
    dropout_rate: Rate of dropout before the linear layer.
    settings: Shared layer settings.
  """

  channels: int
  num_classes: int
  dropout_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to float32 logits [N, num_classes]."""
    x = layers.conv(
      x, self.channels, 1, self.settings, init=_init, name="conv2d"
    )
    x = layers.batch_norm(x, self.settings, name="batch_normalization")
    x = jnp.mean(nn.swish(x), axis=(1, 2), dtype=jnp.float32)
    if self.settings.train and self.dropout_rate:
      key = self.make_rng("dropout")
      x = layers.dropout(x, key, self.dropout_rate)
    dense = nn.Dense(self.num_classes, kernel_init=_dense_init, name="dense")
    return dense(x)


class EfficientNet(Classifier):
  """EfficientNet; its batch norms have a momentum and an epsilon of their own.

  Attributes:
    config: An entry of `CONFIGS`.
    dropout_rate: Rate of dropout before the linear layer.
    stochastic_depth_rate: Rate of stochastic depth; that of block i of n is
      this times i / n.
  """

  config: EfficientNetConfig
  dropout_rate: float = 0.2
  stochastic_depth_rate: float = 0.2

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    settings = dataclasses.replace(settings, momentum=0.99, epsilon=1e-3)
    config = self.config
    x = Stem(config.channels(config.stem), settings, name="Stem_0")(x)
    mbconv = layers.block_class(MBConvBlock, settings)
    blocks = config.blocks()
    for i, block in enumerate(blocks):
      rate = self.stochastic_depth_rate * i / len(blocks)
      x = mbconv(block, rate, settings, name=f"MBConvBlock_{i + 1}")(x)
    return Head(
      config.channels(config.top),
      self.num_classes,
      self.dropout_rate,
      settings,
      name=f"Head_{len(blocks) + 1}",
    )(x)


@register(
  f"({'|'.join(CONFIGS)})",
  names=tuple(CONFIGS),
  aliases={name.replace("_", "-"): name for name in CONFIGS},
  image_size=lambda name: CONFIGS[name].resolution,
  synchronized=True,
)
def efficientnet(
  num_classes: int,
  settings: LayerSettings,
  name: str,
  *,
  dropout_rate: float | None = None,
  stochastic_depth_rate: float = 0.2,
) -> Classifier:
  """Build a member of the family.

  Args:
    num_classes: Number of logits.
    settings: Shared layer settings.
    name: A key of `CONFIGS`.
    dropout_rate: See `EfficientNet`; None is the rate of the member.
    stochastic_depth_rate: See `EfficientNet`.
  """
  config = CONFIGS[name]
  if dropout_rate is None:
    dropout_rate = config.dropout_rate
  return EfficientNet(
    num_classes, settings, config, dropout_rate, stochastic_depth_rate
  )
