"""MLP-Mixers (Tolstikhin et al., NeurIPS 2021).

The networks, names and initializers of google-research/vision_transformer, so
that its checkpoints fit. As there, they have
neither dropout nor stochastic depth.

Reference: https://arxiv.org/abs/2105.01601.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.registry import register

Array = jax.Array


class Size(NamedTuple):
  """Widths and depth of a network.

  Attributes:
    width: Channels of a token.
    depth: Number of blocks.
    tokens_mlp_dim: Hidden tokens of the perceptrons that mix tokens.
    channels_mlp_dim: Hidden channels of those that mix channels.
  """

  width: int
  depth: int
  tokens_mlp_dim: int
  channels_mlp_dim: int


SIZES = {
  # Not in the literature: for small images and tests.
  "nano": Size(64, 6, 32, 128),
  "s": Size(512, 8, 256, 2048),
  "b": Size(768, 12, 384, 3072),
  "l": Size(1024, 24, 512, 4096),
}


class MlpBlock(nn.Module):
  """Perceptron with one hidden layer and GELU's approximation by tanh.

  Attributes:
    hidden: Values of the hidden layer.
    settings: Shared layer settings.
  """

  hidden: int
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [..., C] to the same shape."""
    dtype = self.settings.dtype
    y = nn.Dense(self.hidden, dtype=dtype, name="Dense_0")(x)
    y = nn.gelu(y, approximate=True)
    return nn.Dense(x.shape[-1], dtype=dtype, name="Dense_1")(y)


class MixerBlock(nn.Module):
  """Perceptrons over tokens and over channels, with shortcuts.

  Attributes:
    size: Widths of the network.
    settings: Shared layer settings.
  """

  size: Size
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, tokens, width] to the same shape."""
    size, settings = self.size, self.settings
    y = layers.layer_norm(x, settings, name="LayerNorm_0")
    mix = MlpBlock(size.tokens_mlp_dim, settings, name="token_mixing")
    x = x + jnp.swapaxes(mix(jnp.swapaxes(y, 1, 2)), 1, 2)
    y = layers.layer_norm(x, settings, name="LayerNorm_1")
    return x + MlpBlock(size.channels_mlp_dim, settings, name="channel_mixing")(
      y
    )


class MlpMixer(Classifier):
  """Patches as tokens that perceptrons mix, their average, a linear layer.

  Attributes:
    size: Widths and depth.
    patch: Side of a patch in pixels.
    head_bias: Initial bias of all logits.
  """

  size: Size
  patch: int
  head_bias: float = 0.0

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    x = layers.patches(x, self.size.width, self.patch, settings, name="stem")
    block = layers.block_class(MixerBlock, settings)
    for i in range(self.size.depth):
      x = block(self.size, settings, name=f"MixerBlock_{i}")(x)
    x = layers.layer_norm(
      x.astype(jnp.float32), settings, name="pre_head_layer_norm", dtype=None
    )
    head = nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias),
      name="head",
    )
    return head(jnp.mean(x, axis=1))


_OFFICIAL = [f"{size}{p}" for size in ("s", "b", "l") for p in (16, 32)]


@register(
  rf"mixer_({'|'.join(SIZES)})(\d+)",
  names=("mixer_nano4", *(f"mixer_{size}" for size in _OFFICIAL)),
  general_name="mixer_{size}{patch}",
  aliases={
    f"Mixer-{size[:-2].capitalize()}_{size[-2:]}": f"mixer_{size}"
    for size in _OFFICIAL
  },
  image_size=lambda name: 32 if name.startswith("mixer_nano") else 224,
  patch_group=2,
)
def mlp_mixer(
  num_classes: int,
  settings: LayerSettings,
  size: str,
  patch: int,
  *,
  head_bias: float = 0.0,
) -> Classifier:
  """Build `mixer_{size}{patch}`.

  Args:
    num_classes: Number of logits.
    settings: Shared layer settings.
    size: A key of `SIZES`.
    patch: Side of a patch in pixels.
    head_bias: Initial bias of all logits.

  Raises:
    ValueError: The patch has no pixels, or the bias is no number.
  """
  if patch < 1:
    raise ValueError(f"No mixer_{size}{patch}: a patch has at least 1 pixel.")
  return MlpMixer(num_classes, settings, SIZES[size], patch, float(head_bias))
