"""Images of any size, in the form in which a data set holds its own.

In-memory data sets hold images of one shape, which the device preprocesses.
Streamed data sets crop and resize on the host. Images that belong to no data
set go the same way for a prediction.
"""

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from sam_jax import wording
from sam_jax.augment.resize import resize_bicubic
from sam_jax.datasets import catalog
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.datasets.crops import BORDER


def as_stored(images: np.ndarray, spec: DatasetSpec) -> np.ndarray:
  """Crop and resize images as a data set is for its evaluation.

  Args:
    images: uint8 [N, h, w, C] of any height and width.
    spec: The data set.

  Returns:
    uint8 [N, H, W, C]. For a streamed data set, the center crop of
    `crops.center_crop`; for one in memory, its shape in memory.

  Raises:
    ValueError: The images are of another type, or have other channels.
  """
  try:
    images = np.asarray(images)
  except ValueError as error:
    raise ValueError(
      "Images of different sizes are not one array [N, H, W, C]: predict them"
      " one by one, each as image[None]."
    ) from error
  height, width, channels = spec.shape_in_memory
  if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:3]:
    raise ValueError(
      "Images must be a uint8 array [N, H, W, C], got"
      f" {images.dtype}{list(images.shape)}.{_remedy(images, channels)}"
    )
  if images.shape[3] != channels:
    raise ValueError(
      f"{spec.name} has images of"
      f" {wording.count(channels, 'channel')}, got"
      f" {images.shape[3]}. Convert them, for example by Pillow's"
      f" image.convert({'RGB' if channels == 3 else 'L'!r})."
    )
  if spec.storage == catalog.STREAM:
    return _center_crop(images, height)
  if images.shape[1:3] == (height, width):
    return images
  stored = np.empty((len(images), *spec.shape_in_memory), np.uint8)
  for i, image in enumerate(images):
    fitted = np.asarray(fit(_to_pillow(image), height, width))
    stored[i] = fitted.reshape(spec.shape_in_memory)
  return stored


def _remedy(images: np.ndarray, channels: int) -> str:
  """Return what to do with an array that is not uint8 [N, H, W, C]."""
  if images.dtype != np.uint8:
    return (
      " Pixels are integers from 0 to 255: multiply images in [0, 1] by 255,"
      " and convert them by .round().astype(np.uint8)."
    )
  if channels == 1 and images.shape[-1:] != (1,):
    return " Add the axis of channels to gray images: images[..., None]."
  if images.ndim == 3:
    return " Add an axis to a single image: image[None]."
  return ""


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
  """Cut the center of the wanted aspect ratio, and resize it.

  Resizing is bicubic, with a filter as wide as a new pixel. An image of the
  wanted size stays as it is.
  """
  return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def _to_pillow(image: np.ndarray) -> Image.Image:
  """Return a gray or color image [H, W, C] as one of Pillow."""
  return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _center_crop(images: np.ndarray, size: int) -> np.ndarray:
  """Do for arrays what `crops.center_crop` does for encoded images."""
  height, width = images.shape[1:3]
  part = np.float32(size / (size + BORDER))
  side = max(int(part * np.float32(min(height, width))), 1)
  row, column = (height - side + 1) // 2, (width - side + 1) // 2
  window = images[:, row : row + side, column : column + side]
  resized = resize_bicubic(jnp.asarray(window, jnp.float32), size, size)
  return np.asarray(jnp.clip(resized, 0, 255).round().astype(jnp.uint8))
