"""Vision Transformers (Dosovitskiy et al., ICLR 2021).

The networks, names and initializers of google-research/vision_transformer, so
that its checkpoints fit. Layers are numbered class by class, as Linen does.

Reference: https://arxiv.org/abs/2010.11929. The small sizes are those of
Steiner et al. (TMLR 2022), https://arxiv.org/abs/2106.10270.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.registry import register

Array = jax.Array

_xavier = nn.initializers.xavier_uniform()
_small = nn.initializers.normal(1e-6)


class Size(NamedTuple):
  """Widths and depth of a network.

  Attributes:
    width: Channels of a token.
    depth: Number of blocks.
    mlp_dim: Channels of the hidden layer in a block's perceptron.
    heads: Heads of attention.
  """

  width: int
  depth: int
  mlp_dim: int
  heads: int


SIZES = {
  # Not in the literature: for small images and tests.
  "nano": Size(64, 6, 128, 4),
  "ti": Size(192, 12, 768, 3),
  "s": Size(384, 12, 1536, 6),
  "b": Size(768, 12, 3072, 12),
  "l": Size(1024, 24, 4096, 16),
}


class PositionEmbedding(nn.Module):
  """Sum of tokens and trained embeddings of their positions."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, tokens, C] to the same shape."""
    shape = (1, *x.shape[1:])
    init = nn.initializers.normal(0.02)
    embedding = self.param("pos_embedding", init, shape, jnp.float32)
    return x + embedding.astype(x.dtype)


class MlpBlock(nn.Module):
  """Perceptron with one hidden layer and GELU's approximation by tanh.

  Attributes:
    hidden: Channels of the hidden layer.
    dropout_rate: Rate of dropout after each layer.
    settings: Shared layer settings.
  """

  hidden: int
  dropout_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, tokens, C] to the same shape."""
    channels = x.shape[-1]
    x = nn.gelu(self._dense(x, self.hidden, "Dense_0"), approximate=True)
    x = _dropout(self, x)
    return _dropout(self, self._dense(x, channels, "Dense_1"))

  def _dense(self, x: Array, features: int, name: str) -> Array:
    dense = nn.Dense(
      features,
      dtype=self.settings.dtype,
      kernel_init=_xavier,
      bias_init=_small,
      name=name,
    )
    return dense(x)


class EncoderBlock(nn.Module):
  """Attention and a perceptron, each with a shortcut, normalized before.

  Attributes:
    size: Widths of the network.
    dropout_rate: Rate of dropout after attention and in the perceptron.
    attention_dropout_rate: Rate of dropout of attention's weights.
    settings: Shared layer settings.
  """

  size: Size
  dropout_rate: float
  attention_dropout_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, tokens, width] to the same shape."""
    settings = self.settings
    attention = nn.MultiHeadDotProductAttention(
      num_heads=self.size.heads,
      dtype=settings.dtype,
      kernel_init=_xavier,
      broadcast_dropout=False,
      dropout_rate=self.attention_dropout_rate,
      deterministic=not settings.train,
      name="MultiHeadDotProductAttention_0",
    )
    y = attention(layers.layer_norm(x, settings, name="LayerNorm_0"))
    x = x + _dropout(self, y)
    y = layers.layer_norm(x, settings, name="LayerNorm_1")
    mlp = MlpBlock(
      self.size.mlp_dim, self.dropout_rate, settings, name="MlpBlock_0"
    )
    return x + mlp(y)


class Encoder(nn.Module):
  """Position embeddings, blocks and a last normalization, in float32.

  Attributes:
    size: Widths and depth.
    dropout_rate: Rate of dropout of tokens, and in blocks.
    attention_dropout_rate: Rate of dropout of attention's weights.
    settings: Shared layer settings.
  """

  size: Size
  dropout_rate: float
  attention_dropout_rate: float
  settings: LayerSettings

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Map [N, tokens, width] to float32 of the same shape."""
    x = _dropout(self, PositionEmbedding(name="posembed_input")(x))
    block = layers.block_class(EncoderBlock, self.settings)
    for i in range(self.size.depth):
      x = block(
        self.size,
        self.dropout_rate,
        self.attention_dropout_rate,
        self.settings,
        name=f"encoderblock_{i}",
      )(x)
    return layers.layer_norm(
      x.astype(jnp.float32), self.settings, name="encoder_norm", dtype=None
    )


class VisionTransformer(Classifier):
  """Patches as tokens of a transformer, and a linear layer on top.

  Attributes:
    size: Widths and depth.
    patch: Side of a patch in pixels.
    classifier: "token" classifies the output of an additional token, "gap" the
      average of all outputs.
    dropout_rate: Rate of dropout of tokens, and in blocks.
    attention_dropout_rate: Rate of dropout of attention's weights.
    head_bias: Initial bias of all logits.
  """

  size: Size
  patch: int
  classifier: str
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  head_bias: float = 0.0

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    width = self.size.width
    x = layers.patches(x, width, self.patch, settings, name="embedding")
    if self.classifier == "token":
      token = self.param("cls", nn.initializers.zeros, (1, 1, width))
      token = jnp.broadcast_to(token, (len(x), 1, width))
      x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
    x = Encoder(
      self.size,
      self.dropout_rate,
      self.attention_dropout_rate,
      settings,
      name="Transformer",
    )(x)
    x = x[:, 0] if self.classifier == "token" else jnp.mean(x, axis=1)
    head = nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias),
      name="head",
    )
    return head(x)


def _dropout(module: nn.Module, x: Array) -> Array:
  """Drop values of `x` at the rate of a module, in train mode."""
  if not module.settings.train or not module.dropout_rate:
    return x
  return layers.dropout(x, module.make_rng("dropout"), module.dropout_rate)


_OFFICIAL = [f"{size}{p}" for size in ("ti", "s", "b", "l") for p in (16, 32)]


def _official_name(size: str) -> str:
  """Return the name of "s16" in google-research/vision_transformer."""
  return f"ViT-{size[:-2].capitalize()}_{size[-2:]}"


@register(
  rf"vit_({'|'.join(SIZES)})(\d+)(_gap)?",
  names=("vit_nano4", *(f"vit_{size}" for size in _OFFICIAL)),
  general_name="vit_{size}{patch} and vit_{size}{patch}_gap",
  aliases={
    **{_official_name(size): f"vit_{size}" for size in _OFFICIAL},
    **{
      f"{_official_name(size)}-gap-norep": f"vit_{size}_gap"
      for size in _OFFICIAL
    },
  },
  image_size=lambda name: 32 if name.startswith("vit_nano") else 224,
  patch_group=2,
)
def vision_transformer(
  num_classes: int,
  settings: LayerSettings,
  size: str,
  patch: int,
  gap: str | None,
  *,
  dropout_rate: float = 0.0,
  attention_dropout_rate: float = 0.0,
  head_bias: float = 0.0,
) -> Classifier:
  """Build `vit_{size}{patch}`, or `vit_{size}{patch}_gap` without a token.

  Args:
    num_classes: Number of logits.
    settings: Shared layer settings.
    size: A key of `SIZES`.
    patch: Side of a patch in pixels.
    gap: "_gap" to classify the average of all outputs.
    dropout_rate: See `VisionTransformer`.
    attention_dropout_rate: See `VisionTransformer`.
    head_bias: See `VisionTransformer`.

  Raises:
    ValueError: The patch has no pixels, or the bias is no number.
  """
  if patch < 1:
    raise ValueError(f"No vit_{size}{patch}: a patch has at least 1 pixel.")
  return VisionTransformer(
    num_classes,
    settings,
    SIZES[size],
    patch,
    "gap" if gap else "token",
    dropout_rate,
    attention_dropout_rate,
    float(head_bias),
  )
