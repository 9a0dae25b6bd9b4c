"""Residual networks with Shake-Shake regularization (Gastaldi, 2017).

The network of google-research/sam, which is that of the AutoAugment code base.

Reference: https://arxiv.org/abs/1705.07485.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.layers import Strides
from sam_jax.models.registry import register

Array = jax.Array


class Shortcut(nn.Module):
  """Two 1x1 convolutions of pixels one apart, concatenated, then BN.

  The identity, without parameters, if the channels already match.

  Attributes:
    channels: Channels of the result.
    strides: Strides between the pixels that are kept.
    settings: Shared layer settings.
  """

  channels: int
  strides: Strides
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, ceil(H/stride), ceil(W/stride), channels]."""
    if x.shape[-1] == self.channels:
      return x
    # The second path sees the pixel one further down and right.
    shifted = jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])[:, 1:, 1:]
    rows, columns = self.strides
    paths = [
      layers.conv(
        path[:, ::rows, ::columns],
        self.channels // 2,
        1,
        self.settings,
        name=f"conv_h{i}",
      )
      for i, path in enumerate((x, shifted), start=1)
    ]
    y = jnp.concatenate(paths, axis=-1)
    return layers.batch_norm(y, self.settings, name="bn_residual")


class ShakeShakeBlock(nn.Module):
  """Two residual branches of equal shape, mixed at random.

  Attributes:
    channels: Channels of all convolutions.
    strides: Strides of the first convolution of each branch and of the
      shortcut.
    settings: Shared layer settings.
  """

  channels: int
  strides: Strides
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, channels]."""
    a, b = self._branch(x, "a"), self._branch(x, "b")
    if self.settings.train:
      key = self.make_rng("dropout")
      mixed = layers.shake_shake(
        a,
        b,
        *layers.draw_shake_shake(key, len(x)),
        true_gradient=self.settings.true_gradient,
      )
    else:
      mixed = (a + b) * 0.5
    shortcut = Shortcut(
      self.channels, self.strides, self.settings, name="Shortcut_0"
    )
    return shortcut(x) + mixed

  def _branch(self, x: Array, branch: str) -> Array:
    """Apply ReLU, conv, BN, ReLU, conv, BN."""
    settings, channels = self.settings, self.channels
    y = layers.conv(
      nn.relu(x),
      channels,
      3,
      settings,
      strides=self.strides,
      name=f"conv_{branch}_1",
    )
    y = layers.norm_relu(y, settings, name=f"bn_{branch}_1")
    y = layers.conv(y, channels, 3, settings, name=f"conv_{branch}_2")
    return layers.batch_norm(y, settings, name=f"bn_{branch}_2")


class ShakeShakeGroup(nn.Module):
  """Blocks of equal width; the first one may reduce the resolution.

  Attributes:
    blocks: Number of blocks.
    channels: Channels of each block.
    strides: Strides of the first block.
    settings: Shared layer settings.
  """

  blocks: int
  channels: int
  strides: Strides
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, channels]."""
    block = layers.block_class(ShakeShakeBlock, self.settings)
    for i in range(self.blocks):
      strides = self.strides if i == 0 else (1, 1)
      name = f"ShakeShakeBlock_{i}"
      x = block(self.channels, strides, self.settings, name=name)(x)
    return x


class ShakeShake(Classifier):
  """Shake-Shake network of depth `6 * blocks_per_group + 2`.

  Attributes:
    blocks_per_group: Number of blocks in a group: 4 for Shake-Shake 26.
    width: Factor on the 16, 32 and 64 channels of the three groups; 6 for the
      "2x96d" network.
  """

  blocks_per_group: int
  width: int

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    x = layers.conv(x, 16, 3, settings, name="init_conv")
    x = layers.batch_norm(x, settings, name="init_bn")
    for i in range(3):
      x = ShakeShakeGroup(
        self.blocks_per_group,
        (16 << i) * self.width,
        strides=(1, 1) if i == 0 else (2, 2),
        settings=settings,
        name=f"WideResnetShakeShakeGroup_{i}",
      )(x)
    return layers.dense_logits(nn.relu(x), self.num_classes, name="Dense_3")


@register(
  r"shake_shake_(26_2x96d|mini)",
  names=("shake_shake_26_2x96d", "shake_shake_mini"),
  aliases={
    "WideResnet_ShakeShake_mini": "shake_shake_mini",
    "WideResnet28x6_ShakeShake": "shake_shake_26_2x96d",
  },
)
def shake_shake(
  num_classes: int, settings: LayerSettings, member: str
) -> Classifier:
  """Build `shake_shake_{member}`."""
  blocks, width = {"26_2x96d": (4, 6), "mini": (2, 1)}[member]
  return ShakeShake(num_classes, settings, blocks, width)
