"""Position embeddings of Vision Transformers, for images of another size."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sam_jax.pretrained.checkpoint import FlatArrays

NAME = "Transformer/posembed_input/pos_embedding"


def fit(params: FlatArrays, expected: Mapping[str, Any]) -> FlatArrays:
  """Resize the grid of position embeddings to that of a network.

  Interpolate linearly between the corners, as google-research's
  vision_transformer. The embedding of the additional token stays.

  Args:
    params: Parameters of a checkpoint.
    expected: Parameters of the network, arrays or `jax.ShapeDtypeStruct`s.

  Returns:
    The parameters, unchanged if the sizes agree, or if one of the grids is not
    a square.
  """
  if NAME not in params or NAME not in expected:
    return params
  old, shape = params[NAME], expected[NAME].shape
  token = int("cls" in params)
  side, new_side = _side(old.shape[1] - token), _side(shape[1] - token)
  if old.shape == shape or not side or not new_side:
    return params
  # Imported late: SciPy takes a quarter of the time in which training starts.
  from scipy import ndimage

  grid = old[0, token:].reshape(side, side, -1)
  factor = new_side / side
  grid = ndimage.zoom(grid, (factor, factor, 1), order=1)
  grid = grid.reshape(1, new_side**2, -1)
  return params | {NAME: np.concatenate([old[:, :token], grid], axis=1)}


def report(old: FlatArrays, new: FlatArrays) -> str:
  """Return a sentence about position embeddings that `fit` resized, or ""."""
  if NAME not in old or old[NAME].shape == new[NAME].shape:
    return ""
  tokens = [arrays[NAME].shape[1] - ("cls" in old) for arrays in (old, new)]
  before, after = (f"{_side(n)}x{_side(n)}" for n in tokens)
  return f"Position embeddings were resized from {before} to {after} patches."


def image_shape(params: Mapping[str, Any]) -> tuple[int, ...] | None:
  """Return height, width and channels of images that fit some parameters.

  Vision Transformers and MLP-Mixers have parameters for each patch of an image;
  other networks take images of any size, and get None.

  Args:
    params: Parameters of a network by names joined with '/'.
  """
  mixing = "MixerBlock_0/token_mixing/Dense_0/kernel"
  if {NAME, "embedding/kernel"} <= params.keys():
    kernel = params["embedding/kernel"]
    side = _side(params[NAME].shape[1] - ("cls" in params))
  elif {mixing, "stem/kernel"} <= params.keys():
    kernel = params["stem/kernel"]
    side = _side(params[mixing].shape[0])
  else:
    return None
  if not side or kernel.ndim != 4:
    return None
  return (side * kernel.shape[0], side * kernel.shape[1], kernel.shape[2])


def _side(tokens: int) -> int:
  """Return the side of a square grid of tokens; 0 if there is none."""
  side = math.isqrt(max(tokens, 0))
  return side if side**2 == tokens else 0
