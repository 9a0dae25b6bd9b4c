"""Residual networks with Shake-Shake, https://arxiv.org/abs/1705.07485.

Follows google-research/sam, which follows the AutoAugment code base.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sam_jax.models import layers
from sam_jax.models.layers import LayerSettings, Strides

Array = jax.Array


class Shortcut(nn.Module):
  """Two 1x1 convolutions of pixels one apart, concatenated, then BN.

  Nothing at all (and no parameters) if the channels already match.

  Attributes:
    channels: of the result.
    strides: between the pixels that are kept.
    settings: shared layer settings.
  """

  channels: int
  strides: Strides
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[N,H,W,C]` to `[N,ceil(H/stride),ceil(W/stride),channels]`."""
    if x.shape[-1] == self.channels:
      return x
    # The second path looks one pixel further down and right.
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
    channels: of all convolutions.
    strides: of the first convolution of each branch and of the shortcut.
    settings: shared layer settings.
  """

  channels: int
  strides: Strides
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[N,H,W,C]` to `[N,H/stride,W/stride,channels]`."""
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
    """ReLU, conv, BN, ReLU, conv, BN."""
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
    blocks: number of blocks.
    channels: of each block.
    strides: of the first block.
    settings: shared layer settings.
  """

  blocks: int
  channels: int
  strides: Strides
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[N,H,W,C]` to `[N,H/stride,W/stride,channels]`."""
    block = layers.block_class(ShakeShakeBlock, self.settings)
    for i in range(self.blocks):
      strides = self.strides if i == 0 else (1, 1)
      name = f"ShakeShakeBlock_{i}"
      x = block(self.channels, strides, self.settings, name=name)(x)
    return x


class ShakeShake(nn.Module):
  """Shake-Shake network of depth `6 * blocks_per_group + 2`.

  Attributes:
    num_classes: number of logits.
    blocks_per_group: 4 for Shake-Shake 26.
    width: multiplies the 16, 32 and 64 channels of the three groups; 6 gives
      the "2x96d" network.
    settings: shared layer settings.
  """

  num_classes: int
  blocks_per_group: int
  width: int
  settings: LayerSettings = LayerSettings()

  @nn.compact
  def __call__(
    self, x: Array, *, train: bool, true_gradient: bool = False
  ) -> Array:
    """Maps images `[N,H,W,C]` to float32 logits `[N,num_classes]`.

    Args:
      x: float images, any resolution and number of channels.
      train: use batch statistics and random gates (rng "dropout").
      true_gradient: backward gates equal the forward ones.

    Returns:
      Logits.
    """
    settings = self.settings.for_call(self, train, true_gradient)
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
