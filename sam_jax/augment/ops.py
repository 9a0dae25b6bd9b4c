"""The operations of AutoAugment and RandAugment on one uint8 image.

Each takes a uint8 image [H, W, 3] and returns one. The argument, if there is
one, may be traced. Results equal those of google-research/sam's
`autoaugment/autoaugment.py` (TensorFlow 2.3.1 in graph mode, as its input
pipeline runs) to the last gray level, oddities included; tests/augment compares
recorded outputs.
"""

import jax
import jax.numpy as jnp

from sam_jax import target

_Row = tuple[jax.Array | float, jax.Array | float, jax.Array | float]

FILL = 128  # Gray level of pixels that come from outside of the image.


def autocontrast(image: jax.Array) -> jax.Array:
  """Stretch every channel linearly to 0 to 255; keep constant ones.

  The brightest value may become 254, by truncation, as in the official code.
  """
  low = jnp.min(image, axis=(0, 1)).astype(jnp.float32)
  high = jnp.max(image, axis=(0, 1)).astype(jnp.float32)
  is_constant = high <= low
  scale = 255 / jnp.where(is_constant, 1, high - low)
  # TensorFlow's graph optimizer turns `x * scale - low * scale` into this.
  stretched = (image.astype(jnp.float32) - low) * scale
  return jnp.where(is_constant, image, _to_uint8(stretched))


def equalize(image: jax.Array) -> jax.Array:
  """Make the histogram of every channel as flat as a lookup table can."""
  histogram = _histogram(image)
  # The highest level that occurs has one step less, as in Pillow.
  highest = jnp.max(image, axis=(0, 1)).astype(jnp.int32)
  count = jnp.take_along_axis(histogram, highest[:, None], axis=1)
  step = (image.shape[0] * image.shape[1] - count) // 255
  below = jnp.cumsum(histogram, axis=1) - histogram
  table = (below + step // 2) // jnp.maximum(step, 1)
  table = jnp.clip(table, 0, 255)
  table = jnp.where(step == 0, jnp.arange(256), table).astype(jnp.uint8)
  return table[jnp.arange(3), image]


def _histogram(image: jax.Array) -> jax.Array:
  """Count the levels 0 to 255 of every channel of a uint8 image [H, W, 3].

  Returns:
    int32 [3, 256].
  """
  return jax.lax.platform_dependent(
    image, cpu=_histogram_by_scattering, default=_histogram_by_products
  )


def _histogram_by_scattering(image: jax.Array) -> jax.Array:
  """Add ones one after the other, in the order of the pixels."""
  starts = 256 * jnp.arange(3)
  index = (image.reshape(-1, 3) + starts).ravel()
  counts = jnp.zeros(3 * 256, jnp.int32)
  counts = counts.at[index].add(1, mode="promise_in_bounds")
  return counts.reshape(3, 256)


def _histogram_by_products(image: jax.Array) -> jax.Array:
  """Multiply one-hot codes of the upper and the lower four bits.

  Accelerators have units for products. On CPUs this takes 20 times as long as
  scattering. Exact below 2**24 pixels: bfloat16 holds the codes, float32 the
  counts.
  """
  pixels = image.reshape(-1, 3)
  digits = jnp.arange(16, dtype=jnp.uint8)
  upper = ((pixels >> 4)[..., None] == digits).astype(jnp.bfloat16)
  lower = ((pixels & 15)[..., None] == digits).astype(jnp.bfloat16)
  counts = jnp.einsum(
    "pcu,pcl->cul", upper, lower, preferred_element_type=jnp.float32
  )
  return counts.reshape(3, 256).astype(jnp.int32)


def invert(image: jax.Array) -> jax.Array:
  """Return the negative of a uint8 image [H, W, 3]."""
  return 255 - image


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
  """Keep the upper bits of each value.

  Args:
    image: uint8 [H, W, 3].
    bits: int32, number of bits from 1 to 8. 0 acts as 1, because TensorFlow
      shifts by 7 at most.

  Returns:
    uint8 [H, W, 3].
  """
  shift = jnp.clip(8 - bits, 0, 7).astype(jnp.uint8)
  return (image >> shift) << shift


def solarize(image: jax.Array, threshold: jax.Array) -> jax.Array:
  """Invert the values that are not below a threshold.

  Args:
    image: uint8 [H, W, 3].
    threshold: int32. It wraps to uint8: 256 (level 10) inverts all values,
      where the AutoAugment paper means none.

  Returns:
    uint8 [H, W, 3].
  """
  return jnp.where(image < threshold.astype(jnp.uint8), image, 255 - image)


def solarize_add(image: jax.Array, addition: jax.Array) -> jax.Array:
  """Add to the values below 128.

  Args:
    image: uint8 [H, W, 3].
    addition: int32, 0 or more; sums saturate at 255.

  Returns:
    uint8 [H, W, 3].
  """
  added = jnp.clip(image.astype(jnp.int32) + addition, 0, 255)
  return jnp.where(image < 128, added.astype(jnp.uint8), image)


def color(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend with the gray image: factor 0 gives gray, 1 the image (float32)."""
  gray = jnp.broadcast_to(_grayscale(image), image.shape)
  return _blend(gray, image, factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend with a constant: factor 0 gives the constant, 1 the image (float32).

  The constant is the official one, the number of pixels / 256 (at most 255):
  4 for 32x32 pixels. It is meant to be the mean gray level.
  """
  constant = min(image.shape[0] * image.shape[1] // 256, 255)
  return _blend(jnp.full_like(image, constant), image, factor)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend with black: factor 0 gives black, 1 the image (float32)."""
  return _blend(jnp.zeros_like(image), image, factor)


def sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend with a smooth image: factor 0 gives smooth, 1 the image (float32).

  The pixels at the border are not smoothed.
  """
  height, width = image.shape[:2]
  if height < 3 or width < 3:
    return image
  values = image.astype(jnp.float32)
  # Add shifted images: XLA runs convolutions slowly in loops on CPUs. The
  # order of the sum decides whether whole numbers survive truncation.
  weight = jnp.float32(1) / jnp.float32(13)
  outer = _rounded(values * weight)
  center = _rounded(values * (jnp.float32(5) / jnp.float32(13)))
  smooth = jnp.float32(0)
  for row in range(3):
    for column in range(3):
      part = center if row == column == 1 else outer
      smooth += part[row : height - 2 + row, column : width - 2 + column]
  smooth = jnp.asarray(image).at[1:-1, 1:-1].set(_to_uint8(smooth))
  return _blend(smooth, image, factor)


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
  """Rotate about the center, clockwise for positive degrees (float32)."""
  height, width = (jnp.float32(size - 1) for size in image.shape[:2])
  radians = degrees.astype(jnp.float32) * jnp.float32(jnp.pi / 180)
  cos, sin = jnp.cos(radians), jnp.sin(radians)
  x = (width - (_rounded(cos * width) - _rounded(sin * height))) / 2
  y = (height - (_rounded(sin * width) + _rounded(cos * height))) / 2
  return _transform(image, (cos, -sin, x), (sin, cos, y))


def shear_x(image: jax.Array, slope: jax.Array) -> jax.Array:
  """Show input pixel (x + slope * y, y) at (x, y); slope is float32."""
  return _transform(image, (1, slope, 0), (0, 1, 0))


def shear_y(image: jax.Array, slope: jax.Array) -> jax.Array:
  """Show input pixel (x, y + slope * x) at (x, y); slope is float32."""
  return _transform(image, (1, 0, 0), (slope, 1, 0))


def translate_x(image: jax.Array, pixels: jax.Array) -> jax.Array:
  """Show input pixel (x + pixels, y) at (x, y); pixels is float32."""
  return _transform(image, (1, 0, pixels), (0, 1, 0))


def translate_y(image: jax.Array, pixels: jax.Array) -> jax.Array:
  """Show input pixel (x, y + pixels) at (x, y); pixels is float32."""
  return _transform(image, (1, 0, 0), (0, 1, pixels))


def cutout(
  image: jax.Array, pad_size: jax.Array, row: jax.Array, column: jax.Array
) -> jax.Array:
  """Fill the square from `center - pad_size` to `center + pad_size - 1`.

  The part of the square outside of the image is ignored.

  Args:
    image: uint8 [H, W, 3].
    pad_size: int32, half the side of the square.
    row: int32, row of the center.
    column: int32, column of the center.

  Returns:
    uint8 [H, W, 3].
  """
  from_row = jnp.arange(image.shape[0]) - row
  from_column = jnp.arange(image.shape[1]) - column
  in_rows = (from_row >= -pad_size) & (from_row < pad_size)
  in_columns = (from_column >= -pad_size) & (from_column < pad_size)
  inside = (in_rows[:, None] & in_columns)[..., None]
  return jnp.where(inside, jnp.uint8(FILL), image)


def _transform(image: jax.Array, x_row: _Row, y_row: _Row) -> jax.Array:
  """Show at (x, y) the input pixel nearest to an affine function of (x, y).

  Computes in float32 and in the order of tensorflow_addons 0.11.2's kernel;
  halves are rounded away from zero.

  Args:
    image: uint8 [H, W, 3].
    x_row: Coefficients of x, y and 1 in the input pixel's x.
    y_row: Coefficients of x, y and 1 in the input pixel's y.

  Returns:
    uint8 [H, W, 3].
  """
  height, width = image.shape[:2]
  x = jnp.arange(width, dtype=jnp.float32)
  y = jnp.arange(height, dtype=jnp.float32)[:, None]

  def nearest(row: _Row) -> jax.Array:
    by_x, by_y, constant = (jnp.asarray(entry, jnp.float32) for entry in row)
    moved = _rounded(by_x * x) + _rounded(by_y * y) + constant
    rounded = jax.lax.round(moved, jax.lax.RoundingMethod.AWAY_FROM_ZERO)
    return rounded.astype(jnp.int32)

  from_x, from_y = nearest(x_row), nearest(y_row)
  inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
  index = jnp.where(inside, from_y * width + from_x, 0)
  take = _take_words if target.platform() == "tpu" else _take_pixels
  return jnp.where(inside[..., None], take(image, index), jnp.uint8(FILL))


def _take_pixels(image: jax.Array, index: jax.Array) -> jax.Array:
  """Return the pixels [..., 3] of a uint8 image [H, W, 3] at flat indices."""
  return image.reshape(-1, 3)[index]


def _take_words(image: jax.Array, index: jax.Array) -> jax.Array:
  """Do what `_take_pixels` does, with one word for the channels of a pixel.

  A TPU would pad three channels to 128. On CPUs this takes twice as long.
  """
  red, green, blue = (image[..., i].astype(jnp.uint32) for i in range(3))
  words = (red | green << 8 | blue << 16).ravel()[index]
  channels = [(words >> shift).astype(jnp.uint8) for shift in (0, 8, 16)]
  return jnp.stack(channels, axis=-1)


def _grayscale(image: jax.Array) -> jax.Array:
  """Return uint8 [H, W, 1], as TensorFlow's `rgb_to_grayscale`."""
  scaled = _rounded(image.astype(jnp.float32) * (jnp.float32(1) / 255))
  weighted = _rounded(scaled * jnp.array([0.2989, 0.587, 0.114], jnp.float32))
  red, green, blue = (weighted[..., i : i + 1] for i in range(3))
  return _to_uint8(_rounded(red + green + blue) * 255.5)


def _blend(
  degenerate: jax.Array, image: jax.Array, factor: jax.Array
) -> jax.Array:
  """Move from the degenerate image by factor; saturate at 0 and 255."""
  start = degenerate.astype(jnp.float32)
  difference = image.astype(jnp.float32) - start
  return _to_uint8(start + _rounded(factor * difference))


def _to_uint8(values: jax.Array) -> jax.Array:
  """Clip to 0 to 255 and truncate."""
  return jnp.clip(values, 0, 255).astype(jnp.uint8)


def _rounded(value: jax.Array) -> jax.Array:
  """Return a value rounded to float32.

  XLA may merge an operation with the next one, such as a multiplication and an
  addition, into one instruction that rounds once. The bounds, which no value
  reaches, keep the two apart: results equal TensorFlow's on every backend,
  however the program is compiled.
  """
  return jnp.clip(value, -1e9, 1e9)
