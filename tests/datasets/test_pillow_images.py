"""Image files of every kind, against what Pillow itself returns."""

import io
import pathlib
import warnings

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from sam_jax.datasets import crops, pillow_images
from sam_jax.datasets.pillow_images import BROKEN, FOR_PILLOW, PLAIN
from tests.datasets.folders import encoded, picture

PHOTOS = [
  pathlib.Path(sklearn.datasets.__file__).parent / "images/flower.jpg",
  pathlib.Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg",
  pathlib.Path(matplotlib.get_data_path()) / "images/hand.png",
  pathlib.Path(matplotlib.get_data_path()) / "sample_data/logo2.png",
]
RGBA = picture(1).convert("RGBA")
RGBA.putalpha(picture(2, mode="L"))
KINDS = {
  "color JPEG": (picture(0), "JPEG", {}, PLAIN),
  "gray JPEG": (picture(0, mode="L"), "JPEG", {}, PLAIN),
  "progressive JPEG": (picture(0), "JPEG", {"progressive": True}, PLAIN),
  "CMYK JPEG": (picture(0, mode="CMYK"), "JPEG", {}, FOR_PILLOW),
  "color PNG": (picture(0), "PNG", {}, FOR_PILLOW),
  "gray PNG": (picture(0, mode="L"), "PNG", {}, FOR_PILLOW),
  "black and white PNG": (picture(0, mode="1"), "PNG", {}, FOR_PILLOW),
  "palette PNG": (picture(0, mode="P"), "PNG", {}, FOR_PILLOW),
  "transparent palette PNG": (
    picture(0, mode="P"),
    "PNG",
    {"transparency": 3},
    FOR_PILLOW,
  ),
  "PNG with alpha": (RGBA, "PNG", {}, FOR_PILLOW),
  "gray PNG with alpha": (RGBA.convert("LA"), "PNG", {}, FOR_PILLOW),
  "WebP": (picture(0), "WEBP", {}, FOR_PILLOW),
  "WebP with alpha": (RGBA, "WEBP", {"lossless": True}, FOR_PILLOW),
  "BMP": (picture(0), "BMP", {}, FOR_PILLOW),
}


def check(data, kind):
  """Compare an image with Pillow's, whole and as the stream crops it."""
  assert pillow_images.examine(data) == (kind, "")
  expected = Image.open(io.BytesIO(data))
  expected = ImageOps.exif_transpose(expected).convert("RGB")
  np.testing.assert_array_equal(pillow_images.decode(data), expected)
  fitted, _ = pillow_images.decode_to_fit(data, (16, 24, 3))
  other = ImageOps.fit(expected, (24, 16), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(fitted, other)
  streamed = data if kind == PLAIN else pillow_images.as_bmp(data)
  crop = crops.center_crop(tf.constant(streamed), 20).numpy()
  of_pillow = crops.center_crop(tf.constant(encoded(expected, "PNG")), 20)
  difference = np.abs(crop.astype(int) - of_pillow.numpy())
  # TensorFlow's decoder of JPEGs rounds in another way than Pillow's.
  assert difference.mean() <= (2 if kind == PLAIN else 0)


@pytest.mark.parametrize("name", KINDS)
def test_files_of_every_kind(name):
  image, kind, options, expected = KINDS[name]
  check(encoded(image, kind, **options), expected)


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_real_images_of_installed_packages(path):
  check(path.read_bytes(), PLAIN if path.suffix == ".jpg" else FOR_PILLOW)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_of_exif(orientation, kind):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  data = encoded(picture(orientation), kind, exif=exif)
  is_plain = kind == "JPEG" and orientation == 1
  check(data, PLAIN if is_plain else FOR_PILLOW)
  is_turned = orientation > 4
  size = (40, 56) if is_turned else (56, 40)
  assert pillow_images.decode(data).size == size


def test_gray_values_of_16_bits_keep_their_upper_half():
  values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
  data = encoded(Image.fromarray(values), "PNG")
  found = np.asarray(pillow_images.decode(data))
  np.testing.assert_array_equal(found[..., 0], values >> 8)
  assert np.asarray(pillow_images.decode(data, "L")).shape == (16, 16)


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "no image that Pillow knows"),
    (b"text", "no image that Pillow knows"),
    (encoded(picture(0, (200, 200)), "JPEG")[:-900], "truncated"),
    (encoded(picture(0, (200, 200)), "PNG")[:-900], "truncated"),
    (
      encoded(picture(0, (200, 200)), "WEBP")[:-200],
      "could not create decoder|failed to read",
    ),
  ],
  ids=["empty", "text", "JPEG", "PNG", "WebP"],
)
def test_broken_files_have_a_reason(data, reason):
  kind, found = pillow_images.examine(data)
  assert kind == BROKEN
  image, again = pillow_images.decode_to_fit(data, (8, 8, 3))
  assert image is None
  for text in (found, again):
    assert any(each in text for each in reason.split("|")), text


def test_images_that_are_too_large_are_broken(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    kind, reason = pillow_images.examine(encoded(picture(0), "PNG"))
  assert kind == BROKEN
  assert "exceeds limit" in reason
