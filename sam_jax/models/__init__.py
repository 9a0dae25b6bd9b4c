"""Model families; see `create_model`."""

from sam_jax.models.registry import (
  create_model,
  image_size,
  known_models,
  synchronises_batch_norm,
)

__all__ = [
  "create_model",
  "image_size",
  "known_models",
  "synchronises_batch_norm",
]
