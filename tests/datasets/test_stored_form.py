"""Images of any size for a prediction, against the pipelines of evaluation."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from sam_jax.datasets import catalog, crops
from sam_jax.datasets.class_names import class_names
from sam_jax.datasets.stored_form import as_stored

CIFAR = catalog.dataset_spec("cifar10")
DIGITS = catalog.dataset_spec("digits")
IMAGENET = catalog.dataset_spec("imagenet2012").with_image_size(40)


def pixels(*shape):
  return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(97, 61), (40, 40), (33, 120), (5, 7)])
def test_streamed_data_see_the_center_crop_of_evaluation(size):
  images = pixels(2, *size, 3)
  for image, found in zip(images, as_stored(images, IMAGENET), strict=True):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    expected = crops.center_crop(tf.constant(file.getvalue()), 40).numpy()
    # Sums in another order may round to the next gray level.
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.mean(found != expected) < 0.001


def test_data_in_memory_see_their_own_shape():
  same = pixels(2, 32, 32, 3)
  assert as_stored(same, CIFAR) is same
  assert as_stored(same, CIFAR.with_image_size(64)) is same
  large = pixels(2, 80, 60, 3)
  found = as_stored(large, CIFAR)
  middle = (0, 10, 60, 70)
  center = Image.fromarray(large[0]).resize((32, 32), Image.BICUBIC, middle)
  np.testing.assert_array_equal(found[0], center)
  gray = pixels(3, 9, 8, 1)
  expected = ImageOps.fit(Image.fromarray(gray[1, :, :, 0]), (8, 8))
  found = as_stored(gray, DIGITS)
  assert found.shape == (3, 8, 8, 1)
  np.testing.assert_array_equal(found[1, :, :, 0], expected)
  assert as_stored(gray[:0], DIGITS).shape == (0, 8, 8, 1)


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (pixels(32, 32, 3), r"got uint8\[32, 32, 3\]. Add an axis"),
    (
      np.zeros((1, 32, 32, 3)),
      r"got float64\[1, 32.*multiply images in",
    ),
    (pixels(1, 0, 32, 3), r"must be a uint8 array .*got .*\]\.$"),
    (pixels(1, 32, 32, 1), r"cifar10 has images of 3 channel.*convert\('RGB'"),
  ],
)
def test_arrays_that_are_no_images_are_refused(images, message):
  with pytest.raises(ValueError, match=message):
    as_stored(images, CIFAR)
  with pytest.raises(
    ValueError, match=r"channels to gray images: .*\[..., Non"
  ):
    as_stored(pixels(2, 8, 8), DIGITS)
  with pytest.raises(ValueError, match="one by one, each as image"):
    as_stored([pixels(8, 8, 3), pixels(9, 8, 3)], CIFAR)


def test_class_names_are_those_that_tfds_wrote(tmp_path):
  assert class_names(CIFAR, str(tmp_path)) == tuple("0123456789")
  names = ["airplane", *"abcdefghi"]
  for version, text in (("3.0.1", "a\nb\n"), ("3.0.2", "\n".join(names))):
    directory = tmp_path / "cifar10" / version
    directory.mkdir(parents=True)
    (directory / "label.labels.txt").write_text(text)
  assert class_names(CIFAR, str(tmp_path)) == tuple(names)
