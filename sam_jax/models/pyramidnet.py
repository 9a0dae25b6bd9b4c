"""PyramidNet (Han et al., CVPR 2017), with or without ShakeDrop.

The network of google-research/sam, which is that of the AutoAugment code base:
it rounds the number of channels where the PyramidNet paper truncates it.

References: https://arxiv.org/abs/1610.02915; for ShakeDrop (Yamada et al.,
2018) https://arxiv.org/abs/1802.02375.
"""

from collections.abc import Iterator

import flax.linen as nn
import jax

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.layers import Strides
from sam_jax.models.registry import register

Array = jax.Array

_EXPANSION = 4
# Probability that ShakeDrop keeps the last block; it falls linearly from 1.
_FINAL_KEEP_PROBABILITY = 0.5


class BottleneckBlock(nn.Module):
  """BN, 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, BN, plus a shortcut.

  Attributes:
    channels: Channels of the inner convolutions; the result has four times as
      many.
    strides: Strides of the 3x3 convolution and of the shortcut.
    keep_probability: Probability that ShakeDrop keeps the block; None for no
      ShakeDrop.
    settings: Shared layer settings.
  """

  channels: int
  strides: Strides
  keep_probability: float | None
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, 4 * channels]."""
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


class PyramidNet(Classifier):
  """PyramidNet with bottleneck blocks.

  Attributes:
    depth: Number of weight layers, 9n + 2.
    alpha: Number of channels that the blocks gain from first to last.
    shake_drop: Regularize each block by ShakeDrop.
  """

  depth: int
  alpha: int = 200
  shake_drop: bool = True

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
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
    """Yield the channels, strides and keep probability of each block."""
    per_group = (self.depth - 2) // 9
    total = 3 * per_group
    width = 16.0
    for i in range(total):
      # Add up instead of multiplying: rounding must equal the official code's.
      width += self.alpha / total
      strides = (2, 2) if i in (per_group, 2 * per_group) else (1, 1)
      keep = 1 - (i + 1) / total * (1 - _FINAL_KEEP_PROBABILITY)
      yield round(width), strides, keep


@register(
  r"pyramidnet(\d+)(_shakedrop)?",
  names=("pyramidnet110", "pyramidnet272", "pyramidnet272_shakedrop"),
  aliases={
    "pyramidnet_mini": "pyramidnet11",
    "pyramidnet_mini_shakedrop": "pyramidnet11_shakedrop",
    "Pyramid_ShakeDrop_mini": "pyramidnet11_shakedrop",
    "Pyramid_ShakeDrop": "pyramidnet272_shakedrop",
  },
)
def pyramidnet(
  num_classes: int, settings: LayerSettings, depth: int, shake_drop: str | None
) -> Classifier:
  """Build `pyramidnet{depth}` or `pyramidnet{depth}_shakedrop`.

  Raises:
    ValueError: There is no network of this depth.
  """
  if (depth - 2) % 9 or depth < 11:
    raise ValueError(
      f"No pyramidnet{depth}: a bottleneck PyramidNet's depth is 9n + 2 (11, "
      "110, 164, 272, ...), as in pyramidnet272."
    )
  return PyramidNet(
    num_classes, settings, depth, shake_drop=shake_drop is not None
  )
