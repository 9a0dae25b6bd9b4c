"""Plain convolutional networks, without shortcuts: `cnn36`, `cnn39`, ...

The public CIFAR-100 leaderboard lists SAM results for "CNN36" and "CNN39".
Neither the paper nor any code we know of defines these networks. Ours are a
guess from the names: that many weight layers, all 3x3 convolutions with batch
normalization and ReLU, in three groups of falling resolution, before one
linear layer. Do not expect the leaderboard's numbers.
"""

import flax.linen as nn
import jax

from sam_jax.models import layers
from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.registry import register

Array = jax.Array

_CHANNELS = (32, 64, 128)


class PlainCNN(Classifier):
  """Convolutions in three groups whose depths are as equal as possible.

  Attributes:
    depth: Number of weight layers, the linear one included; at least 4.
  """

  depth: int

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C]."""
    convs = self.depth - 1
    groups = [i * len(_CHANNELS) // convs for i in range(convs)]
    for i, group in enumerate(groups):
      reduces = i > 0 and group > groups[i - 1]
      x = layers.conv(
        x,
        _CHANNELS[group],
        3,
        settings,
        strides=(2, 2) if reduces else (1, 1),
        name=f"Conv_{2 * i}",
      )
      x = layers.norm_relu(x, settings, name=f"BatchNorm_{2 * i + 1}")
    name = f"Dense_{2 * convs}"
    return layers.dense_logits(x, self.num_classes, name=name)


@register(
  r"cnn(\d+)",
  names=("cnn36", "cnn39"),
  general_name="cnn{depth}",
  aliases={"CNN36": "cnn36", "CNN39": "cnn39"},
)
def plain_cnn(
  num_classes: int, settings: LayerSettings, depth: int
) -> Classifier:
  """Build `cnn{depth}`.

  Raises:
    ValueError: The depth is too small.
  """
  if depth < 4:
    raise ValueError(f"No cnn{depth}: the depth must be at least 4.")
  return PlainCNN(num_classes, settings, depth)
