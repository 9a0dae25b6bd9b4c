"""Bicubic resizing on the device, the same as in TensorFlow 1.

google-research/sam resizes CIFAR images in this way for EfficientNets, after
augmentation and normalization. The kernel has a = -0.75 and is tabulated at
1024 places; it starts at the pixel floor(i * scale), and ignores the centers
of pixels and aliasing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_A = -0.75
_TABLE_SIZE = 1024


def resize_bicubic(images: jax.Array, height: int, width: int) -> jax.Array:
  """Resize images, as `tf.compat.v1.image.resize_bicubic` does.

  Args:
    images: float [N, H, W, C].
    height: Height of the result.
    width: Width of the result.

  Returns:
    float [N, height, width, C]; the images themselves if they have that size.
  """
  if images.shape[1:3] == (height, width):
    return images
  rows = jnp.asarray(_weights(images.shape[1], height), images.dtype)
  columns = jnp.asarray(_weights(images.shape[2], width), images.dtype)
  # Full precision: a default of bfloat16 would cost three digits of the image.
  return jnp.einsum(
    "ih,nhwc,jw->nijc", rows, images, columns, precision="highest"
  )


@functools.cache
def _weights(size: int, new_size: int) -> np.ndarray:
  """Return the float32 matrix [new_size, size] from old to new pixels."""
  scale = np.float32(size / new_size)
  position = np.arange(new_size, dtype=np.float32) * scale
  first = position.astype(np.int64)
  place = np.rint((position - first) * _TABLE_SIZE) / _TABLE_SIZE
  matrix = np.zeros((new_size, size))
  for offset in (-1, 0, 1, 2):
    column = np.clip(first + offset, 0, size - 1)
    weight = _kernel(np.abs(place - offset))
    np.add.at(matrix, (np.arange(new_size), column), weight)
  return matrix.astype(np.float32)


def _kernel(distance: np.ndarray) -> np.ndarray:
  """Return Keys' cubic convolution kernel at distances up to 2."""
  x = distance
  near = ((_A + 2) * x - (_A + 3)) * x * x + 1
  far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
  return np.where(x <= 1, near, far)
