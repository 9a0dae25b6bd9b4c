"""Residual networks (He et al., CVPR 2016).

`ResNet` is the ImageNet family of google-research/sam (version 1, the stride
on the 3x3 convolution, the last scale of each block starts at zero).
`CifarResNet` is the small family of section 4.2, which SAM's label-noise
experiments use at depth 32 and which the official release lacks.

Reference: https://arxiv.org/abs/1512.03385.
"""

import flax.linen as nn
import jax

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.layers import Strides
from sam_jax.models.registry import register

Array = jax.Array

# Depth: (blocks per stage, True if the blocks are bottlenecks).
_RESNETS = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
  200: ((3, 24, 36, 3), True),
}

_init = nn.initializers.lecun_normal()


class ResNetBlock(nn.Module):
  """Two 3x3 convolutions, or a 1x1, 3x3, 1x1 bottleneck, plus a shortcut.

  Attributes:
    channels: Channels of the inner convolutions.
    strides: Strides of the first 3x3 convolution and of the shortcut.
    bottleneck: Build a bottleneck, whose result has four times as many
      channels.
    settings: Shared layer settings.
  """

  channels: int
  strides: Strides
  bottleneck: bool
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, channels or 4 * channels]."""
    once = (1, 1)
    kernels = [(3, self.strides), (3, once)]
    width = self.channels
    if self.bottleneck:
      kernels = [(1, once), (3, self.strides), (1, once)]
      width *= 4
    y = x
    for i, (kernel, strides) in enumerate(kernels):
      last = i == len(kernels) - 1
      y = self._conv(
        y, width if last else self.channels, kernel, strides, f"Conv_{2 * i}"
      )
      scale_init = nn.initializers.zeros if last else nn.initializers.ones
      y = layers.batch_norm(
        y, self.settings, name=f"BatchNorm_{2 * i + 1}", scale_init=scale_init
      )
      y = y if last else nn.relu(y)
    if x.shape != y.shape:
      x = self._conv(x, width, 1, self.strides, "conv_proj")
      x = layers.batch_norm(x, self.settings, name="norm_proj")
    return nn.relu(x + y)

  def _conv(
    self, x: Array, features: int, kernel: int, strides: Strides, name: str
  ) -> Array:
    return layers.conv(
      x, features, kernel, self.settings, strides=strides, init=_init, name=name
    )


@register(
  rf"resnet({'|'.join(map(str, _RESNETS))})",
  names=tuple(f"resnet{depth}" for depth in _RESNETS),
  aliases={f"Resnet{depth}": f"resnet{depth}" for depth in _RESNETS},
  image_size=224,
)
class ResNet(Classifier):
  """ImageNet ResNet, version 1.

  Attributes:
    depth: Number of weight layers: 18, 34, 50, 101, 152 or 200.
  """

  depth: int

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    x = layers.conv(
      x,
      64,
      7,
      settings,
      strides=(2, 2),
      padding=3,
      init=_init,
      name="conv_init",
    )
    # The official network has no ReLU before the pool.
    x = layers.batch_norm(x, settings, name="bn_init")
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    x, blocks = self._stages(x, settings)
    return layers.dense_logits(
      x, self.num_classes, init=_init, name=f"Dense_{blocks}"
    )

  def _stages(self, x: Array, settings: LayerSettings) -> tuple[Array, int]:
    """Apply all blocks; return their output and their number."""
    block = layers.block_class(ResNetBlock, settings)
    stages, bottleneck = _RESNETS[self.depth]
    prefix = "BottleneckResNetBlock" if bottleneck else "ResNetBlock"
    count = 0
    for stage, blocks in enumerate(stages):
      for i in range(blocks):
        strides = (2, 2) if stage > 0 and i == 0 else (1, 1)
        name = f"{prefix}_{count}"
        x = block(64 << stage, strides, bottleneck, settings, name=name)(x)
        count += 1
    return x, count


class CifarBlock(nn.Module):
  """Conv, BN, ReLU, conv, BN, plus an optional shortcut, then ReLU.

  The shortcut has no parameters: it keeps every second pixel and pads the
  channels with zeros ("option A" of the ResNet paper).

  Attributes:
    channels: Channels of both convolutions.
    strides: Strides of the first convolution and of the shortcut.
    shortcut: False drops the shortcut.
    settings: Shared layer settings.
  """

  channels: int
  strides: Strides
  shortcut: bool
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, H, W, C] to [N, H/stride, W/stride, channels]."""
    settings = self.settings
    y = layers.conv(
      x, self.channels, 3, settings, strides=self.strides, name="Conv_0"
    )
    y = layers.norm_relu(y, settings, name="BatchNorm_1")
    y = layers.conv(y, self.channels, 3, settings, name="Conv_2")
    y = layers.batch_norm(y, settings, name="BatchNorm_3")
    if self.shortcut:
      rows, columns = self.strides
      kept = x[:, ::rows, ::columns]
      y = y + layers.zero_pad_shortcut(kept, self.channels, (1, 1))
    return nn.relu(y)


class CifarResNet(Classifier):
  """CIFAR ResNet of depth `6 * blocks_per_group + 2`: 16, 32, 64 channels.

  Attributes:
    blocks_per_group: Number of blocks in a group: 5 for ResNet-32.
    shortcuts: False builds the "noshort" network of the loss-surface figures.
  """

  blocks_per_group: int
  shortcuts: bool = True

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    block = layers.block_class(CifarBlock, settings)
    x = layers.conv(x, 16, 3, settings, name="conv_init")
    x = layers.norm_relu(x, settings, name="bn_init")
    blocks = 3 * self.blocks_per_group
    for i in range(blocks):
      group, position = divmod(i, self.blocks_per_group)
      strides = (2, 2) if group > 0 and position == 0 else (1, 1)
      name = f"CifarBlock_{i}"
      x = block(16 << group, strides, self.shortcuts, settings, name=name)(x)
    return layers.dense_logits(x, self.num_classes, name=f"Dense_{blocks}")


@register(
  r"resnet(20|32|44|56|110)(_noshort)?",
  names=("resnet20", "resnet32", "resnet56", "resnet56_noshort"),
)
def cifar_resnet(
  num_classes: int, settings: LayerSettings, depth: int, noshort: str | None
) -> Classifier:
  """Build `resnet{depth}` or `resnet{depth}_noshort` for CIFAR."""
  blocks = (depth - 2) // 6
  return CifarResNet(num_classes, settings, blocks, shortcuts=noshort is None)
