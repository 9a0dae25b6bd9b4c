"""A network that trains in seconds, for `benchmark methods`."""

from flax import linen as nn
from jax import Array

from sam_jax.models import Classifier
from sam_jax.models.layers import LayerSettings
from sam_jax.models.registry import register


@register("perceptron")
class Perceptron(Classifier):
  """Two hidden layers."""

  width: int = 128

  @nn.compact
  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return logits [N, num_classes] of images [N, H, W, C]."""
    x = x.reshape(len(x), -1)
    for _ in range(2):
      x = nn.relu(nn.Dense(self.width, dtype=settings.dtype)(x))
    return nn.Dense(self.num_classes)(x)
