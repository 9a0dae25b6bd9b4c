"""A network on fixed examples: programs that measure it at any variables."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sam_jax.analysis import features
from sam_jax.analysis.objective import ExampleLosses, Objective, network_losses
from sam_jax.analysis.sharpness import Sharpness, m_sharpness_fn
from sam_jax.analysis.worst_case import worst_sharpness_fn
from sam_jax.training import parallel
from sam_jax.training.losses import Loss, cross_entropy

Variables = dict[str, Any]


class MeasuredNetwork:
  """A network and the examples to measure it on, in evaluation mode.

  Attributes:
    examples: `image` uint8 [N, h, w, C] and `label` int [N].
    losses: (normalize) -> the losses of examples, as a function of variables
      and a batch; optionally of normalized logits, see `network_losses`.
    objective: (normalize) -> their mean, as a function of variables.
    one_step: (m) -> the m-sharpness of one ascent step, see `m_sharpness_fn`.
    worst: (normalize, m, **search) -> the worst-case sharpness, see
      `worst_sharpness_fn`.
  """

  def __init__(
    self,
    model: Any,
    preprocess: Callable[[jax.Array], jax.Array],
    examples: dict[str, np.ndarray],
    batch_size: int,
    loss: Loss = cross_entropy,
  ):
    """Compile nothing yet; each program is compiled once, at its first use.

    Args:
      model: The network, as in `build.model`.
      preprocess: uint8 images [n, h, w, C] -> float images [n, H, W, C].
      examples: `image` uint8 [N, h, w, C] and `label` int [N].
      batch_size: Examples of a pass, over all devices.
      loss: (logits, targets) -> loss of each example.
    """
    self.examples = examples
    self._model, self._preprocess = model, preprocess
    self._batch_size = batch_size

    @functools.cache
    def losses(normalize: bool = False) -> ExampleLosses:
      return network_losses(model, preprocess, loss, normalize_logits=normalize)

    @functools.cache
    def objective(normalize: bool = False) -> Objective:
      return Objective(losses(normalize), examples, batch_size)

    @functools.cache
    def one_step(m: int) -> Callable[..., Sharpness]:
      return m_sharpness_fn(losses(), examples, m)

    @functools.cache
    def worst(
      normalize: bool, m: int, **search: Any
    ) -> Callable[..., Sharpness]:
      return worst_sharpness_fn(losses(normalize), examples, m, **search)

    self.losses, self.objective = losses, objective
    self.one_step, self.worst = one_step, worst

  def features(self, variables: Variables) -> np.ndarray:
    """Return the input of the last layer, float32 [N, features].

    Raises:
      ValueError: The last layer is not `nn.Dense`.
    """
    images, size = self.examples["image"], self._batch_size
    variables = self.objective().put(variables)
    rows = []
    for start in range(0, len(images), size):
      indices = np.minimum(np.arange(start, start + size), len(images) - 1)
      batch = parallel.shard(images[indices], jax.local_devices())
      found = jax.device_get(self._features_of_batch(variables, batch))
      rows.append(np.concatenate(found))
    return np.concatenate(rows)[: len(images)]

  @functools.cached_property
  def _features_of_batch(self) -> Any:
    def of_device(variables, images):
      found = features.penultimate_features(
        self._model, variables, self._preprocess(images)
      )
      return found.astype(np.float32)

    return parallel.map_over_devices(
      of_device, in_axes=(None, 0), out_axes=0, devices=jax.local_devices()
    )
