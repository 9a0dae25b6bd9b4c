"""The rank of what a network feeds into its last layer."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn


def penultimate_features(
  model: nn.Module, variables: Any, images: jax.Array
) -> jax.Array:
  """Return the input of the last layer of a network in evaluation mode.

  Args:
    model: A network whose last layer is `nn.Dense`.
    variables: Its `params` and `batch_stats`.
    images: Float images [n, H, W, C].

  Returns:
    Float array [n, features].

  Raises:
    ValueError: The last layer is another one.
  """
  calls: list[tuple[int, jax.Array]] = []

  def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any):
    is_call = context.method_name == "__call__"
    if is_call and isinstance(context.module, nn.Dense):
      calls.append((context.module.features, args[0]))
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    logits: Any = model.apply(variables, images, train=False)
  if not calls or calls[-1][0] != logits.shape[-1]:
    raise ValueError(
      "The feature rank needs a network whose last layer is flax.linen.Dense."
    )
  return calls[-1][1].reshape(len(images), -1)


def feature_rank(features: np.ndarray, variance: float = 0.99) -> int:
  """Return the number of principal components that explain most variance.

  Args:
    features: Float array [N, D].
    variance: Share of the variance to explain, in (0, 1].

  Returns:
    The smallest number; 0 if all features are equal.

  Reference: Andriushchenko et al. (NeurIPS 2023),
  https://arxiv.org/abs/2305.16292, section 3. Their released code centers the
  features of each example; this is PCA, which centers each feature.
  """
  centered = np.asarray(features, np.float64)
  centered = centered - centered.mean(axis=0)
  squares = np.linalg.svd(centered, compute_uv=False) ** 2
  if not squares.sum() > 0:
    return 0
  shares = np.cumsum(squares) / squares.sum()
  # Rounding may leave the last share below 1.
  return min(int(np.searchsorted(shares, variance)) + 1, len(shares))
