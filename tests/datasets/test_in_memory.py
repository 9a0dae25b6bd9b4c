"""Batches decided by (seed, step), and labels corrupted only in training."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from sam_jax.datasets import array_cache, catalog, in_memory, labels
from sam_jax.datasets.in_memory import (
  Concatenated,
  InMemoryDataset,
  load_in_memory,
)

SPEC = catalog.dataset_spec("digits")
NO_NOISE = {"noise_rate": 0.0, "noise_kind": "symmetric", "noise_seed": 0}


def numbered(count):
  """Return images that carry their own number in two pixels, and labels."""
  numbers = np.arange(count)
  images = np.zeros((count, 8, 8, 1), np.uint8)
  images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers // 256, numbers % 256
  return images, (numbers % 10).astype(np.int32)


def numbers_of(images):
  return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]


def make_dataset(train=103, test=37, batch_size=10, **kwargs):
  return InMemoryDataset(
    SPEC,
    numbered(train),
    numbered(test),
    **{"batch_size": batch_size, "eval_batch_size": 8, "seed": 0, **kwargs},
  )


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def test_an_epoch_sees_each_example_at_most_once():
  dataset = make_dataset()
  assert dataset.steps_per_epoch == 10
  epochs = []
  batches = dataset.train_batches(0)
  for _ in range(2):
    seen = np.concatenate([numbers_of(b["image"]) for b in take(batches, 10)])
    assert len(set(seen)) == 100
    epochs.append(list(seen))
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize("step", [1, 9, 10, 25])
def test_any_step_is_reached_without_those_before(step):
  expected = take(make_dataset().train_batches(0), step + 1)[-1]
  actual = next(make_dataset().train_batches(step))
  for name in expected:
    np.testing.assert_array_equal(actual[name], expected[name])
  other = next(make_dataset(seed=1).train_batches(step))
  assert not np.array_equal(other["image"], expected["image"])


@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_hosts_share_the_batches_of_a_single_host(hosts):
  kwargs = {"eval_batch_size": 10, "process_count": hosts}
  views = [make_dataset(process_index=i, **kwargs) for i in range(hosts)]
  one = make_dataset(eval_batch_size=10)
  train = zip(*[take(v.train_batches(7), 5) for v in views], strict=True)
  for parts, whole in zip(train, take(one.train_batches(7), 5), strict=True):
    together = np.concatenate([p["image"] for p in parts])
    np.testing.assert_array_equal(together, whole["image"])
  evaluation = zip(*[v.eval_batches("test") for v in views], strict=True)
  for parts, whole in zip(evaluation, one.eval_batches("test"), strict=True):
    together = np.concatenate([p["mask"] for p in parts])
    np.testing.assert_array_equal(together, whole["mask"])


@pytest.mark.parametrize("split", ["test", "train"])
def test_evaluation_sees_every_example_once(split):
  batches = list(make_dataset().eval_batches(split))
  assert {len(b["image"]) for b in batches} == {8}
  mask = np.concatenate([b["mask"] for b in batches]) > 0
  seen = np.concatenate([numbers_of(b["image"]) for b in batches])[mask]
  assert sorted(seen) == list(range(37 if split == "test" else 103))


def test_batch_larger_than_the_data():
  message = "config.batch_size = 200 is more than the 103"
  with pytest.raises(catalog.DatasetError, match=message):
    make_dataset(batch_size=200)


@pytest.fixture
def toy_splits(monkeypatch):
  """Replace the data on the disk."""
  splits = {
    name: dict(zip(("image", "label"), numbered(count), strict=True))
    for name, count in (("train", 1000), ("test", 300))
  }
  monkeypatch.setattr(
    in_memory, "load_split", lambda spec, split, data_dir: splits[split]
  )


def load(**kwargs):
  fields = {"data_dir": None, "validation_size": 0, "batch_size": 10}
  fields |= {"eval_batch_size": 50, "seed": 0, **NO_NOISE, **kwargs}
  return load_in_memory(SPEC, **fields)


def labels_of(dataset, split):
  batches = list(dataset.eval_batches(split))
  mask = np.concatenate([b["mask"] for b in batches]) > 0
  return np.concatenate([b["label"] for b in batches])[mask]


@pytest.mark.parametrize("validation_size", [0, 100])
def test_noise_stays_in_training_labels(toy_splits, validation_size):
  dataset = load(noise_rate=0.5, validation_size=validation_size)
  clean = load(validation_size=validation_size)
  assert dataset.num_train == 1000 - validation_size
  for split in ("test", "train"):  # "train" is evaluated with clean labels
    np.testing.assert_array_equal(
      labels_of(dataset, split), labels_of(clean, split)
    )
  noisy, original = dataset.training_arrays()[1], clean.training_arrays()[1]
  assert 0.35 < np.mean(noisy != original) < 0.55
  np.testing.assert_array_equal(
    load(
      noise_rate=0.5, seed=9, validation_size=validation_size
    ).training_arrays()[1],
    noisy,
  )


def test_validation_set_is_the_end_of_the_training_set(toy_splits):
  dataset = load(validation_size=100)
  images = np.concatenate([b["image"] for b in dataset.eval_batches("test")])
  np.testing.assert_array_equal(numbers_of(images), np.arange(900, 1000))
  with pytest.raises(catalog.DatasetError, match="validation_size = 1000"):
    load(validation_size=1000)


def test_parts_of_the_training_set_share_nothing(toy_splits):
  sets = []
  for part in range(3):
    dataset = load(validation_size=100, parts=3, part=part, noise_rate=0.5)
    images, noisy = dataset.training_arrays()
    numbers = numbers_of(images)
    clean = load(validation_size=100).training_arrays()[1][numbers]
    np.testing.assert_array_equal(labels_of(dataset, "train"), clean)
    assert 0.3 < np.mean(noisy != clean) < 0.6
    assert len(list(dataset.eval_batches("test"))) == 2  # the same for all
    sets.append(numbers)
  assert [len(numbers) for numbers in sets] == [300] * 3
  assert set(np.concatenate(sets)) == set(range(900))
  # Drawn at random: the parts are not runs of consecutive examples.
  assert all(np.ptp(numbers) > 700 for numbers in sets)


def test_digits_are_scikit_learns_split_by_class(data_dir):
  from sklearn.datasets import load_digits

  images, labels = load_digits(return_X_y=True)
  train = in_memory.load_split(SPEC, "train", str(data_dir))
  test = in_memory.load_split(SPEC, "test", str(data_dir))
  assert (len(train["label"]), len(test["label"])) == (1442, 355)
  ours = np.concatenate([train["image"], test["image"]]).reshape(-1, 64)
  theirs = np.rint(images * 255 / 16).astype(np.uint8)
  rows = lambda x: sorted(map(bytes, x))  # noqa: E731
  assert rows(ours) == rows(theirs)
  for label in range(10):
    share = np.mean(test["label"] == label) / np.mean(labels == label)
    assert share == pytest.approx(1, abs=0.03)
  mean, std = train["image"].mean() / 255, train["image"].std() / 255
  assert (mean, std) == pytest.approx((SPEC.mean[0], SPEC.std[0]), abs=1e-3)


def test_second_load_needs_no_tensorflow(data_dir):
  in_memory.load_split(SPEC, "test", str(data_dir))
  code = f"""
import sys
from sam_jax.datasets import catalog, in_memory
spec = catalog.dataset_spec("digits")
split = in_memory.load_split(spec, "test", {str(data_dir)!r})
assert split["image"].shape == (355, 8, 8, 1)
assert split["label"].shape == (355,)
assert not {{"tensorflow", "tensorflow_datasets"}} & set(sys.modules)
"""
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "checksums"])
def test_damaged_cache_is_made_again(data_dir, damage, caplog):
  expected = in_memory.load_split(SPEC, "test", str(data_dir))
  cache = array_cache.cache_dir(str(data_dir), "decoded", "digits", "test")
  file = cache / ("checksums.json" if damage == "checksums" else "image.npy")
  data = bytearray(file.read_bytes())
  if damage == "flip":
    data[-1] ^= 255
  else:
    data = data[: len(data) // 2]
  file.unlink()  # the arrays above are mapped to the old file
  file.write_bytes(bytes(data))
  again = in_memory.load_split(SPEC, "test", str(data_dir))
  assert "damaged" in caplog.text
  for name in expected:
    np.testing.assert_array_equal(again[name], expected[name])


def test_cache_is_not_used_for_another_number_of_classes(data_dir):
  """A corrected or mistaken spec is compared with the data again."""
  in_memory.load_split(SPEC, "test", str(data_dir))
  wrong = dataclasses.replace(SPEC, num_classes=20)
  message = "num_classes = 20, but its data have 10 classes in 'label'"
  with pytest.raises(catalog.DatasetError, match=message):
    in_memory.load_split(wrong, "test", str(data_dir))


def test_cached_images_are_compared_with_the_spec(data_dir):
  in_memory.load_split(SPEC, "test", str(data_dir))
  wrong = dataclasses.replace(SPEC, image_shape=(8, 8, 3))
  message = r"image_shape = \(8, 8, 3\), but its data have \(8, 8, 1\)"
  with pytest.raises(catalog.DatasetError, match=message):
    in_memory.load_split(wrong, "test", str(data_dir))
  resized = SPEC.with_image_size(12)
  images = in_memory.load_split(resized, "test", str(data_dir))["image"]
  assert images.shape[1:] == (8, 8, 1)


@pytest.mark.parametrize("where", ["train", "test", "clean"])
def test_labels_out_of_range_are_refused(where):
  splits = {name: numbered(30) for name in ("train", "test", "clean")}
  splits[where][1][17] = 10
  message = "num_classes = 10, but its data have labels from 0 to 10"
  with pytest.raises(catalog.DatasetError, match=message):
    InMemoryDataset(
      *(SPEC, splits["train"], splits["test"]),
      clean_train_labels=splits["clean"][1],
      batch_size=5,
      eval_batch_size=5,
      seed=0,
    )


def test_concatenated_takes_what_the_concatenation_has():
  parts = [np.arange(6).reshape(3, 2), np.zeros((0, 2), int), -np.ones((4, 2))]
  parts[-1] = parts[-1].astype(int)
  ours, whole = Concatenated(parts), np.concatenate(parts)
  assert (len(ours), ours.shape, ours.dtype) == (7, (7, 2), whole.dtype)
  for where in (np.array([6, 0, 3, 2, 2]), np.array([], int), slice(2, 5)):
    np.testing.assert_array_equal(ours[where], whole[where])
  np.testing.assert_array_equal(ours, whole)


SVHN = catalog.dataset_spec("svhn")
NUM_SVHN = {"train": 100, "extra": 60, "test": 30}


@pytest.fixture
def svhn(monkeypatch):
  """Replace the data on the disk: labels count, images name their split.

  Returns:
    A list that grows by the images of every split loaded.
  """
  loaded = []

  def load_split(spec, split, data_dir):
    code = list(NUM_SVHN).index(split)
    images = np.full((NUM_SVHN[split], 2, 2, 3), code, np.uint8)
    given = np.arange(NUM_SVHN[split], dtype=np.int32) % 10
    loaded.append(images)
    return {"image": images, "label": given}

  monkeypatch.setattr(in_memory, "load_split", load_split)
  return loaded


def load_svhn(**kwargs):
  fields = {"data_dir": None, "validation_size": 0, "seed": 0, **NO_NOISE}
  fields |= {"batch_size": 10, "eval_batch_size": 10, **kwargs}
  return load_in_memory(SVHN, **fields)


def test_svhn_is_not_copied(svhn):
  images, _ = load_svhn(validation_size=10).training_arrays()
  for part, images_of_split in zip(images._parts, svhn, strict=True):
    assert np.shares_memory(part, images_of_split)


def test_svhn_holds_out_from_train_and_keeps_extra(svhn):
  images = np.asarray(load_svhn().training_arrays()[0])
  assert np.bincount(images[:, 0, 0, 0]).tolist() == [100, 60]
  dataset = load_svhn(validation_size=10, noise_rate=1.0)
  images = np.asarray(dataset.training_arrays()[0])
  assert np.bincount(images[:, 0, 0, 0]).tolist() == [90, 60]
  (batch,) = dataset.eval_batches("test")
  assert set(batch["image"].ravel()) == {0}
  np.testing.assert_array_equal(batch["label"], np.arange(10))  # clean


def test_batches_have_the_true_labels_too(svhn):
  dataset = load_svhn(noise_rate=0.5)
  batches = [next(dataset.train_batches(i)) for i in range(16)]
  given = np.concatenate([b["label"] for b in batches])
  clean = np.concatenate([b["clean_label"] for b in batches])
  assert np.bincount(clean).tolist() == [16] * 10
  assert 0.3 < np.mean(given != clean) < 0.6
  assert dataset.spec.noisy_labels and not load_svhn().spec.noisy_labels
  assert "clean_label" not in next(load_svhn().train_batches(0))


def test_labels_of_a_file(svhn, tmp_path):
  path = tmp_path / "new" / "labels.npy"
  wanted = np.arange(150) % 7
  labels.write_labels(path, wanted)
  dataset = load_svhn(labels_path=path, validation_size=10)
  np.testing.assert_array_equal(dataset.training_arrays()[1], wanted)
  clean = np.concatenate([b["label"] for b in dataset.eval_batches("train")])
  assert not np.array_equal(clean, wanted)
  assert "clean_label" in next(dataset.train_batches(0))
  with pytest.raises(catalog.DatasetError, match="each of the 160 training"):
    load_svhn(labels_path=path)
