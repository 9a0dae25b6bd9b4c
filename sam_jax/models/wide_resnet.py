"""Wide residual networks, https://arxiv.org/abs/1605.07146.

Follows google-research/sam, which follows the AutoAugment code base:
pre-activation blocks, parameter-free shortcuts (average pool, zero padding).
"""

import flax.linen as nn
import jax

from sam_jax.models import layers
from sam_jax.models.layers import LayerSettings, Strides

Array = jax.Array


class WideResnetBlock(nn.Module):
  """BN, ReLU, conv, BN, ReLU, conv, plus a shortcut.

  Attributes:
    channels: of both convolutions.
    strides: of the first convolution and of the shortcut.
    activate_shortcut: the shortcut starts after the first BN and ReLU.
    residual_scale: factor on the initial weights of the last convolution.
    dropout_rate: of dropout between the convolutions.
    settings: shared layer settings.
  """

  channels: int
  strides: Strides
  activate_shortcut: bool
  residual_scale: float
  dropout_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[N,H,W,C]` to `[N,H/stride,W/stride,channels]`."""
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
    blocks: number of blocks.
    channels: see `WideResnetBlock`, as the attributes below.
    strides: of the first block.
    first: whether this is the model's first group.
    extra_skip: add the group's input to its output.
    residual_scale: see `WideResnetBlock`.
    dropout_rate: see `WideResnetBlock`.
    settings: shared layer settings.
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
    """Maps `[N,H,W,C]` to `[N,H/stride,W/stride,channels]`."""
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


class WideResnet(nn.Module):
  """Wide ResNet of depth `6 * blocks_per_group + 4`.

  Attributes:
    num_classes: number of logits.
    blocks_per_group: 4 for WRN-28, 6 for WRN-40.
    width: multiplies the 16, 32 and 64 channels of the three groups.
    additional_skips: add shortcuts around each group and around the whole
      network, as AutoAugment's code does and most implementations do not.
    dropout_rate: of dropout inside each block.
    settings: shared layer settings.  Without normalisation (the paper's
      Hessian study) the residual branches start `1/sqrt(number of blocks)`
      smaller, or activations would double their variance in every block; such
      a network still needs a small learning rate, about 0.01.
  """

  num_classes: int
  blocks_per_group: int
  width: int
  additional_skips: bool = False
  dropout_rate: float = 0.0
  settings: LayerSettings = LayerSettings()

  @nn.compact
  def __call__(
    self, x: Array, *, train: bool, true_gradient: bool = False
  ) -> Array:
    """Maps images `[N,H,W,C]` to float32 logits `[N,num_classes]`.

    Args:
      x: float images, any resolution and number of channels.
      train: use batch statistics and dropout.
      true_gradient: accepted by all models; nothing here depends on it.

    Returns:
      Logits.
    """
    settings = self.settings.for_call(self, train, true_gradient)
    scale = 1.0 if settings.normalise else (3 * self.blocks_per_group) ** -0.5
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
