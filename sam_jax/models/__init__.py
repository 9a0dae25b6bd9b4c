"""Networks; see `create_model`, and `Classifier` for your own."""

from sam_jax.models.classifier import Classifier, LayerSettings
from sam_jax.models.registry import (
  create_model,
  image_size,
  known_models,
  patch_size,
  register,
  synchronizes_batch_norm,
)

__all__ = [
  "Classifier",
  "LayerSettings",
  "create_model",
  "image_size",
  "known_models",
  "patch_size",
  "register",
  "synchronizes_batch_norm",
]
