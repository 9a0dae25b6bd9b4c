"""Crops and resizing against numbers recorded from the official release."""

import jax
import numpy as np
import pytest
import tensorflow as tf

from sam_jax.augment.resize import resize_bicubic
from sam_jax.config.schema import default_config
from sam_jax.datasets import catalog, crops
from sam_jax.training import build, input_pipeline, parallel
from tests.datasets import archives


@pytest.fixture(scope="module")
def reference(golden):
  return golden("imagenet_preprocess.npz")


@pytest.mark.parametrize(
  ("photo", "recorded", "size"),
  [
    ("china", "eval", 224),
    ("china", "eval", 64),
    ("small420", "small420_eval", 64),
  ],
)
def test_center_crop_is_the_official_one(reference, photo, recorded, size):
  encoded = reference[f"imagenet/{photo}_jpeg_bytes"].tobytes()
  crop = crops.center_crop(tf.constant(encoded), size).numpy()
  spec = catalog.dataset_spec("imagenet2012")
  official = reference[f"imagenet/{recorded}_{size}"]
  official = (official * np.array(spec.std) + np.array(spec.mean)) * 255
  # The official values are floats that overshoot, ours whole gray levels.
  assert crop.dtype == np.uint8
  assert np.abs(crop - official.clip(0, 255)).max() <= 0.501


@pytest.mark.parametrize("size", [224, 64])
def test_center_window_is_the_official_one(reference, size):
  window = crops.center_window(tf.constant([427, 640, 3]), size)
  expected = reference[f"imagenet/crop_window_{size}"]
  np.testing.assert_array_equal(window, expected)


@pytest.mark.parametrize("size", [32, 64])
def test_bicubic_is_that_of_tensorflow_1(reference, size):
  images = reference["bicubic/input"].astype(np.float32)[None]
  resized = resize_bicubic(images, size, size)[0]
  np.testing.assert_allclose(
    resized, reference[f"bicubic/out_{size}"], atol=1e-3
  )


@pytest.mark.parametrize(
  "name", ["cifar10", "cifar100", "svhn", "fashion_mnist"]
)
def test_normalization_is_the_official_one(reference, name):
  spec = catalog.dataset_spec(name)
  np.testing.assert_allclose(spec.mean, reference[f"normalised/{name}_mean"])
  np.testing.assert_allclose(spec.std, reference[f"normalised/{name}_std"])


def cifar_pixels(reference):
  """Return the uint8 images behind the recorded normalized ones."""
  spec = catalog.dataset_spec("cifar10")
  images = reference["normalised/cifar10"]
  pixels = (images * np.array(spec.std) + np.array(spec.mean)) * 255
  return np.rint(pixels).astype(np.uint8)


def test_evaluation_resizes_as_the_official_one(reference):
  config = default_config()
  config.dataset.image_size = 80
  preprocess = jax.jit(build.preprocess_fn(build.dataset_spec(config)))
  np.testing.assert_allclose(
    preprocess(cifar_pixels(reference)),
    reference["normalised/cifar10_resized80_first2"],
    atol=2e-6,
  )


def test_training_resizes_after_augmentation(reference):
  config = default_config()
  config.dataset.image_size = 80
  config.augment.policy = "none"
  images = np.repeat(cifar_pixels(reference), 4, 0)
  labels = np.arange(8, dtype=np.int32)
  augment = input_pipeline.map_augmentation(config, build.dataset_spec(config))
  batch = parallel.shard({"image": images, "label": labels})
  batch = augment(batch, np.int32(0))
  expected = reference["normalised/cifar10_resized80_first2"]
  np.testing.assert_allclose(
    np.concatenate(batch["image"]), np.repeat(expected, 4, 0), atol=2e-6
  )


@pytest.mark.parametrize("kind", archives.ODD_PHOTOS, ids=str)
def test_odd_files_survive(kind):
  encoded = tf.constant(archives.photo(50, 70, **kind))
  colors = tf.constant(archives.photo(50, 70))
  expected = crops.center_crop(colors, 32).numpy().astype(int)
  if kind["mode"] == "L":
    weights = np.array([0.299, 0.587, 0.114])
    expected = (expected @ weights)[..., None]
  actual = crops.center_crop(encoded, 32).numpy()
  assert actual.shape == (32, 32, 3)
  tolerance = 40 if kind["mode"] == "P" else 12  # 256 colors; JPEG
  assert np.abs(actual - expected).mean() < tolerance
  random = crops.random_crop(encoded, 32, [0, 1]).numpy()
  assert random.shape == (32, 32, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2), (5, 5)])
def test_smallest_images(shape):
  encoded = tf.constant(archives.photo(*shape))
  assert crops.center_crop(encoded, 224).shape == (224, 224, 3)
  assert crops.random_crop(encoded, 224, [0, 0]).shape == (224, 224, 3)


def test_truncated_jpeg_keeps_its_upper_part():
  whole = archives.photo(64, 64)
  cut = tf.constant(whole[: len(whole) * 3 // 4])
  image = crops.center_crop(cut, 32).numpy()
  expected = crops.center_crop(tf.constant(whole), 32).numpy()
  assert np.abs(image[:8].astype(int) - expected[:8]).mean() < 3


def test_random_crops_are_those_of_their_seed(reference):
  encoded = reference["imagenet/china_jpeg_bytes"].tobytes()
  crop = tf.function(lambda seed: crops.random_crop(encoded, 32, seed))
  seeds = [np.array(seed) for seed in ([0, 1], [0, 1], [0, 2], [1, 1])]
  first, again, *others = (crop(tf.constant(s)).numpy() for s in seeds)
  np.testing.assert_array_equal(first, again)
  assert all(not np.array_equal(first, other) for other in others)


def test_random_windows_have_inceptions_areas_and_shapes():
  shape = tf.constant([200, 300, 3])
  draw = tf.function(lambda i: crops.random_window(shape, 8, [7, i]))
  windows = [draw(tf.constant(i)) for i in range(300)]
  rows, columns, heights, widths = np.array(windows).T
  areas = heights * widths / (200 * 300)
  ratios = widths / heights
  assert 0.075 < areas.min() < 0.12 and areas.max() <= 1
  assert 0.73 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.36
  assert (rows + heights).max() <= 200 and (columns + widths).max() <= 300
  # TensorFlow draws heights evenly, so that small areas are more frequent.
  assert 0.3 < np.mean(areas) < 0.4
