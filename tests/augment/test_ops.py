"""The operations, against recorded outputs of the official release."""

import jax
import numpy as np
import pytest

from sam_jax.augment import ops

# Name in the recording: operation. Every pixel must be equal.
PLAIN = {
  "AutoContrast": ops.autocontrast,
  "Equalize": ops.equalize,
  "Invert": ops.invert,
}
WITH_ARGUMENT = {
  "Posterize": ops.posterize,
  "Solarize": ops.solarize,
  "SolarizeAdd": ops.solarize_add,
  "Color": ops.color,
  "Contrast": ops.contrast,
  "Brightness": ops.brightness,
  "Sharpness": ops.sharpness,
  "Rotate": ops.rotate,
  "ShearX": ops.shear_x,
  "ShearY": ops.shear_y,
  "TranslateX": ops.translate_x,
  "TranslateY": ops.translate_y,
}


@pytest.fixture(scope="module")
def recorded(golden):
  return dict(golden("augment.npz"))


def over_arguments(op, images, *arguments):
  """Return outputs [arguments, images, H, W, 3]."""
  over_images = jax.vmap(op, (0, *(None for _ in arguments)))
  over_both = jax.vmap(over_images, (None, *(0 for _ in arguments)))
  return np.asarray(jax.jit(over_both)(images, *arguments))


def make_image(height=23, width=37, seed=0):
  random = np.random.default_rng(seed)
  levels = random.normal(120, 50, (height, width, 3)) * (0.5, 1.0, 1.5)
  return np.clip(levels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_equals_official(recorded, name):
  outputs = jax.jit(jax.vmap(PLAIN[name]))(recorded["images"])
  assert outputs.dtype == np.uint8
  np.testing.assert_array_equal(outputs, recorded[f"op/{name}/out"])


@pytest.mark.parametrize("name", WITH_ARGUMENT)
def test_with_argument_equals_official(recorded, name):
  arguments = recorded[f"op/{name}/arg"]
  if arguments.dtype == np.float64:
    arguments = arguments.astype(np.float32)
  outputs = over_arguments(WITH_ARGUMENT[name], recorded["images"], arguments)
  assert outputs.dtype == np.uint8
  np.testing.assert_array_equal(outputs, recorded[f"op/{name}/out"])


def test_cutout_equals_official(recorded):
  rows, columns, pad_sizes = recorded["op/Cutout/arg"].T
  images = recorded["images"]
  outputs = over_arguments(ops.cutout, images, pad_sizes, rows, columns)
  np.testing.assert_array_equal(outputs, recorded["op/Cutout/out"])


@pytest.mark.parametrize("name", WITH_ARGUMENT)
def test_fused_or_step_by_step_gives_the_same_bits(recorded, name):
  """Rounding does not depend on the operations that XLA merges."""
  op, argument = WITH_ARGUMENT[name], recorded[f"op/{name}/arg"][3]
  if isinstance(argument, np.float64):
    argument = np.float32(argument)
  image = make_image()
  fused = jax.jit(op)(image, argument)
  with jax.disable_jit():
    step_by_step = op(image, argument)
  np.testing.assert_array_equal(fused, step_by_step)


def equalized(channel):
  """Compute the equalized channel again, level by level."""
  counts = np.bincount(channel.ravel(), minlength=256)
  step = (channel.size - counts[channel.max()]) // 255
  if not step:
    return channel
  below = [counts[:level].sum() for level in range(256)]
  table = np.array([min((n + step // 2) // step, 255) for n in below])
  return table[channel].astype(np.uint8)


@pytest.mark.parametrize("size", [(23, 37), (64, 48)], ids=str)
def test_equalize_on_other_sizes(size):
  image = make_image(*size)
  expected = np.stack([equalized(image[..., i]) for i in range(3)], axis=-1)
  np.testing.assert_array_equal(jax.jit(ops.equalize)(image), expected)


def test_grayscale_weighs_the_channels():
  image = make_image()
  gray = jax.jit(ops.color)(image, np.float32(0))
  exact = image @ np.array([0.2989, 0.587, 0.114]) * 255.5 / 255
  np.testing.assert_array_equal(gray[..., :1], gray[..., 1:2])
  np.testing.assert_array_less(abs(gray[..., 0] - exact + 0.5), 0.501)


def test_whole_numbers_of_pixels_translate_by_slicing():
  image = make_image()
  right = jax.jit(ops.translate_x)(image, np.float32(5))
  np.testing.assert_array_equal(right[:, :-5], image[:, 5:])
  np.testing.assert_array_equal(right[:, -5:], ops.FILL)
  down = jax.jit(ops.translate_y)(image, np.float32(-4))
  np.testing.assert_array_equal(down[4:], image[:-4])
  np.testing.assert_array_equal(down[:4], ops.FILL)


def test_quarter_and_half_turns_permute_pixels():
  image = make_image(16, 16)
  for degrees, turns in ((90, 1), (180, 2), (-90, 3)):
    turned = jax.jit(ops.rotate)(image, np.float32(degrees))
    np.testing.assert_array_equal(turned, np.rot90(image, turns))


def test_official_quirks():
  image = make_image(16, 16)
  # The threshold of level 10 wraps around: all values are inverted.
  inverted = jax.jit(ops.solarize)(image, np.int32(256))
  np.testing.assert_array_equal(inverted, 255 - image)
  # TensorFlow keeps one bit where 0 are asked for.
  one_bit = jax.jit(ops.posterize)(image, np.int32(0))
  np.testing.assert_array_equal(one_bit, image & 128)
  # The "mean" is the number of pixels divided by 256.
  flat = jax.jit(ops.contrast)(image, np.float32(0))
  np.testing.assert_array_equal(flat, 16 * 16 // 256)


@pytest.mark.parametrize("op", [ops.autocontrast, ops.equalize])
def test_constant_images_stay(op):
  image = np.full((4, 5, 3), 77, np.uint8)
  np.testing.assert_array_equal(jax.jit(op)(image), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 5)], ids=str)
def test_sharpness_of_images_without_interior(size):
  image = make_image(*size)
  np.testing.assert_array_equal(ops.sharpness(image, np.float32(1.9)), image)


@pytest.mark.parametrize(
  "histogram", [ops._histogram_by_scattering, ops._histogram_by_products]
)
def test_histogram_counts_exactly(histogram):
  """300 * 300 pixels of a level, more than bfloat16 counts exactly."""
  image = np.full((300, 300, 3), 200, np.uint8)
  image[0, 0] = (0, 15, 255)
  counts = jax.jit(histogram)(image)
  expected = [np.bincount(image[..., i].ravel(), minlength=256) for i in (0, 1)]
  np.testing.assert_array_equal(counts[:2], expected)
