"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016).

The network of google-research/sam, which is that of the AutoAugment code base:
pre-activation blocks, parameter-free shortcuts (average pool, zero padding).

Reference: https://arxiv.org/abs/1605.07146.
"""

import dataclasses

import flax.linen as nn
import jax

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.layers import Strides
from sam_jax.models.registry import register

Array = jax.Array


class WideResnetBlock(nn.Module):
  """BN, ReLU, conv, BN, ReLU, conv, plus a shortcut.

  Attributes:
    channels: Channels of both convolutions.
    strides: Strides of the first convolution and of the shortcut.
    activate_shortcut: Start the shortcut after the first BN and ReLU.
    residual_scale: Factor on the initial weights of the last convolution.
    dropout_rate: Rate of dropout between the convolutions.
    settings: Shared layer settings.
  """

  channels: int
  strides: Strides
  activate_shortcut: bool
  residual_scale: float
  dropout_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, channels]."""
    settings = self.settings
    y = layers.norm_relu(x, settings, name="init_bn")
    shortcut = y if self.activate_shortcut else x
    y = layers.conv(
      y, self.channels, 3, settings, strides=self.strides, name="conv1"
    )
    y = layers.norm_relu(y, settings, name="bn_2")
    if settings.train and self.dropout_rate:
      key = self.make_rng("dropout")
      y = layers.dropout(y, key, self.dropout_rate)
    init = nn.initializers.variance_scaling(
      2.0 * self.residual_scale**2, "fan_out", "normal"
    )
    y = layers.conv(y, self.channels, 3, settings, init=init, name="conv2")
    return y + layers.zero_pad_shortcut(shortcut, self.channels, self.strides)


class WideResnetGroup(nn.Module):
  """Blocks of equal width; the first one may reduce the resolution.

  Attributes:
    blocks: Number of blocks.
    channels: Channels of each block.
    strides: Strides of the first block.
    first: True in the first group of a network.
    extra_skip: Add the input of the group to its output.
    residual_scale: See `WideResnetBlock`.
    dropout_rate: See `WideResnetBlock`.
    settings: Shared layer settings.
  """

  blocks: int
  channels: int
  strides: Strides
  first: bool
  extra_skip: bool
  residual_scale: float
  dropout_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, channels]."""
    block = layers.block_class(WideResnetBlock, self.settings)
    y = x
    for i in range(self.blocks):
      y = block(
        self.channels,
        self.strides if i == 0 else (1, 1),
        activate_shortcut=self.first and i == 0,
        residual_scale=self.residual_scale,
        dropout_rate=self.dropout_rate,
        settings=self.settings,
        name=f"WideResnetBlock_{i}",
      )(y)
    if self.extra_skip:
      y = y + layers.zero_pad_shortcut(x, self.channels, self.strides)
    return y


class WideResnet(Classifier):
  """Wide ResNet of depth `6 * blocks_per_group + 4`.

  Without normalization (the paper's Hessian study) the residual branches start
  `1/sqrt(number of blocks)` smaller, or activations would double their
  variance in every block. Such a network still needs a small learning rate,
  about 0.01.

  Attributes:
    blocks_per_group: Number of blocks in a group: 4 for WRN-28, 6 for WRN-40.
    width: Factor on the 16, 32 and 64 channels of the three groups.
    additional_skips: Add shortcuts around each group and around the whole
      network, as AutoAugment's code does and most implementations do not.
    dropout_rate: Rate of dropout inside each block.
  """

  blocks_per_group: int
  width: int
  additional_skips: bool = False
  dropout_rate: float = 0.0

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    scale = 1.0 if settings.normalize else (3 * self.blocks_per_group) ** -0.5
    x = x.astype(settings.dtype)
    y = layers.conv(x, 16, 3, settings, name="init_conv")
    for i in range(3):
      y = WideResnetGroup(
        self.blocks_per_group,
        (16 << i) * self.width,
        strides=(1, 1) if i == 0 else (2, 2),
        first=i == 0,
        extra_skip=self.additional_skips,
        residual_scale=scale,
        dropout_rate=self.dropout_rate,
        settings=settings,
        name=f"WideResnetGroup_{i}",
      )(y)
    if self.additional_skips:
      y = y + layers.zero_pad_shortcut(x, y.shape[-1], (4, 4))
    y = layers.norm_relu(y, settings, name="pre-pool-bn")
    return layers.dense_logits(y, self.num_classes, name="Dense_3")


@register(
  r"wrn(\d+)_(\d+)",
  names=("wrn10_2", "wrn16_8", "wrn28_10", "wrn40_2", "wrn40_10"),
  general_name="wrn{depth}_{width}",
  aliases={
    "wrn_mini": "wrn16_1",
    "WideResnet_mini": "wrn16_1",
    "WideResnet28x10": "wrn28_10",
  },
)
def wide_resnet(
  num_classes: int,
  settings: LayerSettings,
  depth: int,
  width: int,
  *,
  dropout_rate: float = 0.0,
  additional_skips: bool = False,
  normalization: bool = True,
) -> Classifier:
  """Build `wrn{depth}_{width}`.

  Args:
    num_classes: Number of logits.
    settings: Shared layer settings.
    depth: Number of weight layers, 6n + 4.
    width: See `WideResnet`.
    dropout_rate: See `WideResnet`.
    additional_skips: See `WideResnet`.
    normalization: False builds the network without batch normalization.

  Raises:
    ValueError: There is no network of this depth or width.
  """
  if (depth - 4) % 6 or depth < 10 or width < 1:
    raise ValueError(
      f"No wrn{depth}_{width}: a wide ResNet's depth is 6n + 4 (10, 16, 22, "
      "28, 34, 40, ...) and its width at least 1, as in wrn28_10."
    )
  return WideResnet(
    num_classes,
    dataclasses.replace(settings, normalize=normalization),
    blocks_per_group=(depth - 4) // 6,
    width=width,
    additional_skips=additional_skips,
    dropout_rate=dropout_rate,
  )
