"""The contract that every network fulfills.

A network is a Linen module whose call takes images and returns logits. Ours
derive from `Classifier`; the training step calls any module that can be called
in the same way.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
AxisGroups = tuple[tuple[int, ...], ...]


@jax.tree_util.register_static  # no leaves: Linen's summaries list arrays
@dataclasses.dataclass(frozen=True)
class LayerSettings:
  """Settings that all layers of a network share during one call.

  Attributes:
    dtype: Type of activations. Parameters, statistics and logits stay float32.
    precision: Precision of float32 convolutions and matrix products, as in
      `jax.default_matmul_precision`; None for JAX's choice.
    batch_norm_axis: Mapped axis over which batch statistics are averaged in
      train mode; None keeps them local to the device.
    batch_norm_groups: `axis_index_groups` of that average; None averages over
      all devices.
    freeze_batch_norm: Always normalize by running averages, never update them.
    normalize: False drops batch normalization altogether.
    momentum: Weight of the old running average in the new one.
    epsilon: Added to the variance.
    remat: Recompute the activations of each block in the backward pass.
    train: Use batch statistics and random layers. `Classifier` sets it, and
      the next attribute, for each call.
    true_gradient: Use the forward coefficients of shake layers in the backward
      pass too.
  """

  dtype: Any = jnp.float32
  precision: str | None = None
  batch_norm_axis: str | None = None
  batch_norm_groups: AxisGroups | None = None
  freeze_batch_norm: bool = False
  normalize: bool = True
  momentum: float = 0.9
  epsilon: float = 1e-5
  remat: bool = False
  train: bool = False
  true_gradient: bool = False


class Classifier(nn.Module):
  """Base class of the networks: a subclass implements `logits`.

  Variables are float32, in the collections "params" and "batch_stats" (the
  latter only with batch normalization). In train mode, random layers take
  their keys from the rng collection "dropout".

  Attributes:
    num_classes: Number of logits.
    settings: Settings of all layers, except for `train` and `true_gradient`.
  """

  num_classes: int
  settings: LayerSettings

  def __call__(
    self, x: Array, *, train: bool, true_gradient: bool = False
  ) -> Array:
    """Return the logits of a batch.

    Args:
      x: Float images [N, H, W, C], of any resolution and number of channels.
      train: Use batch statistics and random layers. During initialization the
        network is in evaluation mode, and draws nothing but parameters.
      true_gradient: Let the backward coefficients of Shake-Shake and ShakeDrop
        equal the forward ones. Networks without these layers ignore it.

    Returns:
      Float32 logits [N, num_classes].
    """
    train = train and not self.is_initializing()
    settings = dataclasses.replace(
      self.settings, train=train, true_gradient=true_gradient
    )
    if settings.precision is None:
      return self.logits(x, settings)
    with jax.default_matmul_precision(settings.precision):
      return self.logits(x, settings)

  def logits(self, x: Array, settings: LayerSettings) -> Array:
    """Return float32 logits [N, num_classes] of images [N, H, W, C].

    Subclasses override this method, decorated by `nn.compact`.

    Args:
      x: Float images [N, H, W, C].
      settings: Settings of this call; `settings.train` is the mode.
    """
    raise NotImplementedError(f"{type(self).__name__} must implement logits.")
