"""Crops of encoded images, decoded and resized by TensorFlow.

Crops and resizing follow google-research/sam: Inception's random crops for
training, EfficientNet's center crops for evaluation, TensorFlow 1's bicubic
resizing. Images may have any format that TensorFlow decodes, such as JPEG
(grayscale, CMYK and truncated files too), PNG or GIF.
"""

from collections.abc import Callable
from typing import Any

_AREA = (0.08, 1.0)  # of a random crop, as a fraction of the image's area
_ASPECT_RATIO = (3 / 4, 4 / 3)
_MIN_COVERED = 0.1
_ATTEMPTS = 10
# Evaluation sees size of each size + 32 pixels of the shorter side.
BORDER = 32


def random_crop(encoded: Any, size: int, seed: Any) -> Any:
  """Crop at random and resize.

  Args:
    encoded: The file's contents, string [].
    size: Side of the result in pixels.
    seed: int [2], decides the crop.

  Returns:
    uint8 [size, size, 3].
  """
  part = _decode(encoded, lambda shape: random_window(shape, size, seed))
  return resize(part, size)


def random_window(shape: Any, size: int, seed: Any) -> Any:
  """Draw the window of `random_crop`.

  Args:
    shape: int32 (height, width, channels) of the image.
    size: Side of the result in pixels.
    seed: int [2], decides the window.

  Returns:
    int32 [4]: row, column, height, width.
  """
  import tensorflow as tf

  begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
    shape,
    bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    seed=seed,
    min_object_covered=_MIN_COVERED,
    aspect_ratio_range=_ASPECT_RATIO,
    area_range=_AREA,
    max_attempts=_ATTEMPTS,
    use_image_if_no_bounding_boxes=True,
  )
  # After too many attempts the box is the whole image: use the center instead.
  return tf.cond(
    tf.reduce_all(extent[:2] == shape[:2]),
    lambda: center_window(shape, size),
    lambda: tf.concat([begin[:2], extent[:2]], 0),
  )


def center_crop(encoded: Any, size: int) -> Any:
  """Crop the center of an image, size / (size + 32) of its shorter side.

  Args:
    encoded: The file's contents, string [].
    size: Side of the result in pixels.

  Returns:
    uint8 [size, size, 3].
  """
  part = _decode(encoded, lambda shape: center_window(shape, size))
  return resize(part, size)


def center_window(shape: Any, size: int) -> Any:
  """Return the window that `center_crop` sees.

  Args:
    shape: int32 (height, width, ...) of the image.
    size: Side of the result in pixels.

  Returns:
    int32 [4]: row, column, height, width.
  """
  import tensorflow as tf

  shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
  side = tf.cast(size / (size + BORDER) * shorter, tf.int32)
  side = tf.maximum(side, 1)
  row = (shape[0] - side + 1) // 2
  column = (shape[1] - side + 1) // 2
  return tf.stack([row, column, side, side])


def decoded_size(encoded: bytes) -> tuple[int, int] | None:
  """Decode a whole image as training does, to learn whether that works.

  Args:
    encoded: The file's contents.

  Returns:
    (height, width); None if TensorFlow can't decode the image, as JPEG 2000,
    TIFF or AVIF, which other libraries read.
  """
  import tensorflow as tf

  try:
    image = _decode(encoded, lambda shape: tf.stack([0, 0, shape[0], shape[1]]))
  except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
    return None
  height, width, _ = image.shape
  return height, width


def resize(image: Any, size: int) -> Any:
  """Resize as in google-research/sam, but to whole gray levels.

  Bicubic resizing overshoots 0..255. The official release feeds such values to
  RandAugment, where they wrap around; here they are clipped.

  Args:
    image: uint8 [height, width, 3].
    size: Side of the result in pixels.

  Returns:
    uint8 [size, size, 3].
  """
  import tensorflow as tf

  # The operation behind tf.compat.v1.image.resize_bicubic.
  resized = tf.raw_ops.ResizeBicubic(images=image[None], size=[size, size])[0]
  # One operation that clips, rounds half to even and converts: the scale from
  # 0..255 to quint8 is 1. Three operations take twice the time.
  levels, *_ = tf.raw_ops.QuantizeV2(
    input=resized,
    min_range=0.0,
    max_range=255.0,
    T=tf.quint8,
    mode="SCALED",
    round_mode="HALF_TO_EVEN",
  )
  return tf.ensure_shape(tf.bitcast(levels, tf.uint8), [size, size, 3])


def _decode(encoded: Any, window_of: Callable[[Any], Any]) -> Any:
  """Decode a window of an image; a JPEG is decoded only there.

  Args:
    encoded: The file's contents, string [].
    window_of: Maps the image's shape, int32 [3], to a window, int32 [4].

  Returns:
    uint8 [height, width, 3] of the window.
  """
  import tensorflow as tf

  def decode_jpeg() -> Any:
    return tf.raw_ops.DecodeAndCropJpeg(
      contents=encoded,
      crop_window=window_of(tf.image.extract_jpeg_shape(encoded)),
      channels=3,
      try_recover_truncated=True,
    )

  def decode_other() -> Any:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    row, column, height, width = tf.unstack(window_of(tf.shape(image)))
    return image[row : row + height, column : column + width]

  is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
  return tf.cond(is_jpeg, decode_jpeg, decode_other)
