"""PyramidNet, https://arxiv.org/abs/1610.02915, with or without ShakeDrop.

Follows google-research/sam, which follows the AutoAugment code base: the
number of channels is rounded where the PyramidNet paper truncates it.
ShakeDrop: https://arxiv.org/abs/1802.02375.
"""

from collections.abc import Iterator

import flax.linen as nn
import jax

from sam_jax.models import layers
from sam_jax.models.layers import LayerSettings, Strides

Array = jax.Array

_EXPANSION = 4
# Probability that ShakeDrop leaves the last block alone; 1 before the first.
_FINAL_KEEP_PROBABILITY = 0.5


class BottleneckBlock(nn.Module):
  """BN, 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, BN, plus a shortcut.

  Attributes:
    channels: of the inner convolutions; the block has four times as many.
    strides: of the 3x3 convolution and of the shortcut.
    keep_probability: of ShakeDrop; None does without.
    settings: shared layer settings.
  """

  channels: int
  strides: Strides
  keep_probability: float | None
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[N,H,W,C]` to `[N,H/stride,W/stride,4*channels]`."""
    settings, channels = self.settings, self.channels
    y = layers.batch_norm(x, settings, name="bn_1_pre")
    y = layers.conv(y, channels, 1, settings, name="1x1_conv_contract")
    y = layers.norm_relu(y, settings, name="bn_1_post")
    y = layers.conv(y, channels, 3, settings, strides=self.strides, name="3x3")
    y = layers.norm_relu(y, settings, name="bn_2")
    channels *= _EXPANSION
    y = layers.conv(y, channels, 1, settings, name="1x1_conv_expand")
    y = layers.batch_norm(y, settings, name="bn_3")
    shortcut = layers.zero_pad_shortcut(x, channels, self.strides)
    return shortcut + self._shake_drop(y)

  def _shake_drop(self, y: Array) -> Array:
    if self.keep_probability is None:
      return y
    if not self.settings.train:
      return y * layers.shake_drop_expectation(self.keep_probability)
    key = self.make_rng("dropout")
    draws = layers.draw_shake_drop(key, len(y), self.keep_probability)
    true_gradient = self.settings.true_gradient
    return layers.shake_drop(y, *draws, true_gradient=true_gradient)


class PyramidNet(nn.Module):
  """PyramidNet with bottleneck blocks.

  Attributes:
    num_classes: number of logits.
    depth: number of weight layers, 9n + 2.
    alpha: how many channels the blocks gain from first to last.
    shake_drop: regularise each block by ShakeDrop.
    settings: shared layer settings.
  """

  num_classes: int
  depth: int
  alpha: int = 200
  shake_drop: bool = True
  settings: LayerSettings = LayerSettings()

  @nn.compact
  def __call__(
    self, x: Array, *, train: bool, true_gradient: bool = False
  ) -> Array:
    """Maps images `[N,H,W,C]` to float32 logits `[N,num_classes]`.

    Args:
      x: float images, any resolution and number of channels.
      train: use batch statistics and ShakeDrop (rng "dropout").
      true_gradient: backward coefficients equal the forward ones.

    Returns:
      Logits.
    """
    settings = self.settings.for_call(self, train, true_gradient)
    block = layers.block_class(BottleneckBlock, settings)
    x = layers.conv(x, 16, 3, settings, name="init_conv")
    x = layers.batch_norm(x, settings, name="init_bn")
    for i, (channels, strides, keep) in enumerate(self._blocks()):
      x = block(
        channels,
        strides,
        keep if self.shake_drop else None,
        settings,
        name=f"BottleneckShakeDrop_{i}",
      )(x)
    x = layers.norm_relu(x, settings, name="final_bn")
    blocks = (self.depth - 2) // 3
    return layers.dense_logits(x, self.num_classes, name=f"Dense_{blocks}")

  def _blocks(self) -> Iterator[tuple[int, Strides, float]]:
    """Channels, strides and keep probability of each block."""
    per_group = (self.depth - 2) // 9
    total = 3 * per_group
    width = 16
    for i in range(total):
      # Summed, not multiplied: rounding must fall as in the official code.
      width += self.alpha / total
      strides = (2, 2) if i in (per_group, 2 * per_group) else (1, 1)
      keep = 1 - (i + 1) / total * (1 - _FINAL_KEEP_PROBABILITY)
      yield round(width), strides, keep
