"""Image files as Pillow reads them: upright, in the colors of a data set.

TensorFlow ignores the orientation of EXIF, can't read WebP, and decodes CMYK in
another way. Only JPEGs that need none of this are left to it, because it
decodes just the window that a crop needs.
"""

import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sam_jax.datasets.stored_form import fit

# What `examine` finds.
PLAIN, FOR_PILLOW, BROKEN = range(3)

_JPEG = ("JPEG", "MPO")  # MPO: of phones, a JPEG with further pictures
_SCALE = 8  # libjpeg decodes an eighth of each side for little time


def examine(encoded: bytes) -> tuple[int, str]:
  """Decode a whole image, to learn whether and how that works.

  Args:
    encoded: The contents of the file.

  Returns:
    PLAIN for a gray or color JPEG that needs no rotation, FOR_PILLOW for other
    images, BROKEN if it can't be decoded; and the reason of the latter.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
      is_jpeg = image.format in _JPEG and image.mode in ("RGB", "L")
      image.draft(None, (image.width // _SCALE, image.height // _SCALE))
      image.load()
  except Exception as error:  # each of Pillow's decoders has errors of its own
    return BROKEN, _reason(error)
  return (PLAIN if is_jpeg and is_upright else FOR_PILLOW), ""


def decode(encoded: bytes, mode: str = "RGB") -> Image.Image:
  """Decode an image, turn it upright, and convert its colors.

  Palettes, CMYK and transparency are converted as `Image.convert` does; 16-bit
  gray values keep their upper 8 bits.

  Args:
    encoded: The contents of the file.
    mode: "RGB" or, for gray images, "L".

  Raises:
    Exception: The image can't be decoded; see `examine`.
  """
  with Image.open(io.BytesIO(encoded)) as image:
    upright = ImageOps.exif_transpose(image)
  if upright.mode.startswith("I"):  # Pillow would clip them at 255
    values = np.asarray(upright).astype(np.int64) >> 8
    upright = Image.fromarray(values.clip(0, 255).astype(np.uint8))
  return upright.convert(mode)


def decode_to_fit(
  encoded: bytes, shape: tuple[int, int, int]
) -> tuple[np.ndarray | None, str]:
  """Decode an image, and bring it to a shape, see `stored_form.fit`.

  Args:
    encoded: The contents of the file.
    shape: (height, width, channels) of the result.

  Returns:
    uint8 [height, width, channels]; or None, and the reason.
  """
  try:
    image = decode(encoded, "L" if shape[2] == 1 else "RGB")
  except Exception as error:  # each of Pillow's decoders has errors of its own
    return None, _reason(error)
  return np.asarray(fit(image, *shape[:2])).reshape(shape), ""


def as_bmp(encoded: bytes) -> bytes:
  """Return an image as a color BMP file, which TensorFlow decodes."""
  file = io.BytesIO()
  decode(encoded).save(file, "BMP")
  return file.getvalue()


def _reason(error: Any) -> str:
  if isinstance(error, Image.UnidentifiedImageError):
    return "no image that Pillow knows"
  return " ".join(str(error).split()) or type(error).__name__
