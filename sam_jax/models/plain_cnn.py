"""Plain convolutional networks, without shortcuts: `cnn36`, `cnn39`, ...

The public CIFAR-100 leaderboard lists SAM results for "CNN36" and "CNN39".
Neither the paper nor any code we know of defines these networks.  Ours are a
guess at the names only: that many weight layers, all 3x3 convolutions with
batch normalisation and ReLU, in three groups of falling resolution, before one
linear layer.  Do not expect the leaderboard's numbers.
"""

import flax.linen as nn
import jax

from sam_jax.models import layers
from sam_jax.models.layers import LayerSettings

Array = jax.Array

_CHANNELS = (32, 64, 128)


class PlainCNN(nn.Module):
  """Convolutions in three groups as equal in depth as possible.

  Attributes:
    num_classes: number of logits.
    depth: weight layers, the linear one included; at least 4.
    settings: shared layer settings.
  """

  num_classes: int
  depth: int
  settings: LayerSettings = LayerSettings()

  @nn.compact
  def __call__(
    self, x: Array, *, train: bool, true_gradient: bool = False
  ) -> Array:
    """Maps images `[N,H,W,C]` to float32 logits `[N,num_classes]`.

    Args:
      x: float images, any resolution and number of channels.
      train: use batch statistics.
      true_gradient: accepted by all models; nothing here depends on it.

    Returns:
      Logits.
    """
    settings = self.settings.for_call(self, train, true_gradient)
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
