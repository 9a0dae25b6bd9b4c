"""Crops of encoded images, decoded and resized by TensorFlow.

Crops and resizing follow google-research/sam: Inception's random crops for
training, EfficientNet's center crops for evaluation, TensorFlow 1's bicubic
resizing. Images may have any format that TensorFlow decodes, such as JPEG
(grayscale, CMYK and truncated files too), PNG or GIF.
"""

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
  window = random_window(_image_shape(encoded), size, seed)
  return _resize(_decode(encoded, window), size)


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
  window = tf.concat([begin[:2], extent[:2]], 0)
  # After too many attempts the box is the whole image: use the center instead.
  is_whole = tf.reduce_all(extent[:2] == shape[:2])
  return tf.where(is_whole, center_window(shape, size), window)


def center_crop(encoded: Any, size: int) -> Any:
  """Crop the center of an image, size / (size + 32) of its shorter side.

  Args:
    encoded: The file's contents, string [].
    size: Side of the result in pixels.

  Returns:
    uint8 [size, size, 3].
  """
  window = center_window(_image_shape(encoded), size)
  return _resize(_decode(encoded, window), size)


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
    height, width, _ = _image_shape(encoded).numpy()
    _decode(encoded, tf.stack([0, 0, height, width]))
  except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
    return None
  return int(height), int(width)


def _is_jpeg(encoded: Any) -> Any:
  import tensorflow as tf

  return tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"


def _image_shape(encoded: Any) -> Any:
  """Return height, width and channels, int32 [3], of an encoded image."""
  import tensorflow as tf

  return tf.cond(
    _is_jpeg(encoded),
    lambda: tf.image.extract_jpeg_shape(encoded),
    lambda: tf.shape(_decode_other(encoded)),
  )


def _decode(encoded: Any, window: Any) -> Any:
  """Return a window of an image; a JPEG is decoded only there."""
  import tensorflow as tf

  def decode_jpeg() -> Any:
    return tf.raw_ops.DecodeAndCropJpeg(
      contents=encoded,
      crop_window=window,
      channels=3,
      try_recover_truncated=True,
    )

  def decode_other() -> Any:
    row, column, height, width = tf.unstack(window)
    image = _decode_other(encoded)
    return image[row : row + height, column : column + width]

  return tf.cond(_is_jpeg(encoded), decode_jpeg, decode_other)


def _decode_other(encoded: Any) -> Any:
  import tensorflow as tf

  return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _resize(image: Any, size: int) -> Any:
  """Resize as in google-research/sam, but to whole gray levels.

  Bicubic resizing overshoots 0..255. The official release feeds such values to
  RandAugment, where they wrap around; here they are clipped.
  """
  import tensorflow as tf

  # The operation behind tf.compat.v1.image.resize_bicubic.
  image = tf.raw_ops.ResizeBicubic(images=image[None], size=[size, size])[0]
  # `tf.clip_by_value` runs two operations and takes three times as long.
  image = tf.raw_ops.ClipByValue(
    t=image, clip_value_min=0.0, clip_value_max=255.0
  )
  image = tf.cast(tf.round(image), tf.uint8)
  return tf.ensure_shape(image, [size, size, 3])
