"""The part of the input pipeline that runs on the device."""

import functools
import pathlib
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.augment import pipeline, policies
from sam_jax.augment.pipeline import Augmentation, augment
from sam_jax.training import build, parallel

SIZE, BATCH = 8, 16
BASE: dict[str, Any] = {
  "num_classes": 4,
  "mean": (0.0,) * 3,
  "std": (1 / 255,) * 3,
}
MIXUP = Augmentation(**BASE, policy="none", mixup_alpha=8.0)


def make_batch(seed=0):
  random = np.random.default_rng(seed)
  images = random.integers(1, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8)
  return images, random.integers(4, size=BATCH).astype(np.int32)


@functools.cache
def compiled(augmentation):
  """Return `augment` as one program, which all calls with it share."""
  return jax.jit(functools.partial(augment, augmentation=augmentation))


def on_one_device(augmentation, images, labels, key):
  return jax.device_get(compiled(augmentation)(images, labels, key, 0))


def on_devices(augmentation, images, labels, key, count):
  def fn(images, labels):
    first = jax.lax.axis_index(parallel.AXIS) * images.shape[0]
    return augment(
      images,
      labels,
      key,
      first,
      augmentation=augmentation,
      axis_name=parallel.AXIS,
    )

  mapped = parallel.map_over_devices(
    fn, in_axes=(0, 0), out_axes=(0, 0), devices=jax.devices()[:count]
  )
  images, labels = (
    x.reshape(count, -1, *x.shape[1:]) for x in (images, labels)
  )
  outputs = jax.device_get(mapped(images, labels))
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


# With mixup, which mixes across devices, see below.
KINDS = [
  {"policy": "none"},
  {"policy": "basic", "crop_padding": 2, "cutout": "batch", "cutout_size": 4},
  {"policy": "none", "cutout": "image", "cutout_size": 4},
  {"policy": "autoaugment", "crop_padding": 2, "translate_const": 4},
  {"policy": "randaugment", "translate_const": 4},
  {"policy": "aa-only", "autoaugment_policy": "svhn"},
]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_same_bits_on_any_number_of_devices(fields, monkeypatch):
  # RandAugment has all operations: compile a few of AutoAugment's.
  for name in ("cifar10", "svhn"):
    few = policies.AUTOAUGMENT_POLICIES[name][:3]
    monkeypatch.setitem(policies.AUTOAUGMENT_POLICIES, name, few)
  batch = *make_batch(), jax.random.fold_in(jax.random.key(0), 3)
  augmentation = Augmentation(**BASE, **fields)
  expected = on_one_device(augmentation, *batch)
  actual = on_devices(augmentation, *batch, 8)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_mixup_gives_the_same_bits_on_any_number_of_devices():
  batch = *make_batch(), jax.random.fold_in(jax.random.key(0), 3)
  expected = on_devices(MIXUP, *batch, 1)
  actual = on_devices(MIXUP, *batch, 8)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  # Without an axis XLA fuses the sum differently: the last bit may differ.
  alone = on_one_device(MIXUP, *batch)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), alone, expected
  )


@pytest.mark.parametrize(
  ("name", "variant", "given", "expected"),
  [
    ("imagenet", "efficientnet_b0", None, 100),
    ("cifar", "autoaugment", None, 250),
    ("imagenet", "efficientnet_b0", 40, 40),
    ("svhn", "autoaugment", 0, 0),
  ],
)
def test_translation_is_the_official_one_of_each_policy(
  monkeypatch, name, variant, given, expected
):
  file = pathlib.Path(__file__).parents[2] / "configs" / f"{name}.py"
  config = runpy.run_path(str(file))["get_config"](variant)
  config.augment.translate_const = given
  augmentation = build.augmentation(config, build.dataset_spec(config))
  for policy in ("autoaugment", "randaugment"):  # return their arguments
    monkeypatch.setattr(pipeline.policies, policy, lambda *_, **kwargs: kwargs)
  arguments = pipeline._apply_policy(None, None, augmentation)
  assert arguments["translate_const"] == expected


@pytest.mark.parametrize("flip", [True, False])
def test_basic_takes_windows_of_the_padded_image(flip):
  augmentation = Augmentation(**BASE, crop_padding=1, flip=flip)
  images, labels = make_batch()
  seen = []
  for step in range(12):
    key = jax.random.fold_in(jax.random.key(1), step)
    out, targets = on_one_device(augmentation, images, labels, key)
    np.testing.assert_array_equal(targets, np.eye(4)[labels])
    for image, result in zip(images, np.rint(out), strict=True):
      seen.append(find_window(image, result, 1))
  assert len(set(seen)) == 9 * (1 + flip)  # all offsets, mirrored or not
  if flip:
    assert 0.35 < np.mean([is_flipped for is_flipped, *_ in seen]) < 0.65


def find_window(image, result, padding):
  """Return the (flip, row, column) of a window of the reflect-padded image."""
  for is_flipped in (False, True):
    source = image[:, ::-1] if is_flipped else image
    around = ((padding, padding), (padding, padding), (0, 0))
    padded = np.pad(source, around, mode="reflect")
    for row in range(2 * padding + 1):
      for column in range(2 * padding + 1):
        window = padded[row : row + SIZE, column : column + SIZE]
        if np.array_equal(window, result):
          return is_flipped, row, column
  raise AssertionError("not a window of the padded image")


def test_patch_equals_the_official_release(golden):
  recorded = golden("augment.npz")
  zeroed = recorded["batch_cutout/zeroed"]
  for (row, column), expected in zip(
    recorded["batch_cutout/center"], zeroed, strict=True
  ):
    here = pipeline.patch(row, column, 32, 32, 16)[..., 0]
    for image in expected:
      np.testing.assert_array_equal(here, image)


@pytest.mark.parametrize("cutout", ["batch", "image"])
def test_cutout_is_zero_after_normalization(cutout):
  augmentation = Augmentation(
    **BASE, policy="none", cutout=cutout, cutout_size=4
  )
  images, labels = make_batch()
  out, _ = on_one_device(augmentation, images, labels, jax.random.key(2))
  holes = np.all(out == 0, axis=-1)
  np.testing.assert_array_equal(np.rint(out)[~holes], images[~holes])
  assert holes.any(axis=(1, 2)).all()
  assert holes.sum(axis=(1, 2)).max() <= 16
  places = len(np.unique(holes, axis=0))
  assert places == 1 if cutout == "batch" else places > 4


def test_mixup_mixes_each_example_with_its_mirror_image():
  images, _ = make_batch()
  labels = np.arange(BATCH, dtype=np.int32) // 4
  out, targets = on_one_device(MIXUP, images, labels, jax.random.key(3))
  weight = targets[0, labels[0]]
  assert 0.5 <= weight < 1
  one_hot = np.eye(4)[labels]
  expected = weight * one_hot + (1 - weight) * one_hot[::-1]
  np.testing.assert_allclose(targets, expected, rtol=1e-5)
  mixed = weight * images + (1 - weight) * images[::-1].astype(np.float64)
  np.testing.assert_allclose(out, mixed, rtol=1e-4)


def test_targets_may_be_distributions():
  augmentation = Augmentation(**BASE, policy="none")
  images, _ = make_batch()
  soft = np.full((BATCH, 4), 0.25, np.float32)
  _, targets = on_one_device(augmentation, images, soft, jax.random.key(0))
  np.testing.assert_array_equal(targets, soft)


def test_steps_differ_and_share_one_program():
  augmentation = Augmentation(**BASE, crop_padding=2)
  images, labels = make_batch()
  fn = jax.jit(functools.partial(augment, augmentation=augmentation))
  keys = [jax.random.fold_in(jax.random.key(0), jnp.int32(i)) for i in (0, 1)]
  first, second = (fn(images, labels, key, 0)[0] for key in keys)
  again = fn(images, labels, keys[0], 0)[0]
  assert not np.array_equal(first, second)
  np.testing.assert_array_equal(first, again)
  assert fn._cache_size() == 1


@pytest.mark.parametrize("field", ["policy", "cutout"])
def test_errors_name_unknown_choices(field):
  with pytest.raises(ValueError, match=f"{field} = 'x' is unknown; known"):
    Augmentation(**BASE, **{field: "x"})
