"""Model families; see `create_model`."""

from sam_jax.models.registry import create_model, image_size, known_models

__all__ = ["create_model", "image_size", "known_models"]
