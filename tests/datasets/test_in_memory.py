"""Batches decided by (seed, step); labels corrupted where they should be."""

import subprocess
import sys

import numpy as np
import pytest

from sam_jax.datasets import (
  array_cache,
  catalog,
  decoded,
  in_memory,
  label_noise,
)
from sam_jax.datasets.in_memory import InMemoryDataset, load_in_memory

SPEC = catalog.dataset_spec("digits")
NO_NOISE = {"noise_rate": 0.0, "noise_kind": "symmetric", "noise_seed": 0}


def numbered(count):
  """Images that carry their own number in two pixels, and labels."""
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
  """Replaces what is on the disk."""
  splits = {
    name: dict(zip(("image", "label"), numbered(count), strict=True))
    for name, count in (("train", 1000), ("test", 300))
  }
  monkeypatch.setattr(
    in_memory.decoded, "load_split", lambda spec, split, data_dir: splits[split]
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


LABELS = np.random.default_rng(0).integers(10, size=20000).astype(np.int32)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.8, 1.0])
@pytest.mark.parametrize(
  ("kind", "wrong"), [("symmetric", 0.9), ("symmetric_other", 1.0)]
)
def test_symmetric_noise(kind, wrong, rate):
  noisy = label_noise.corrupt_labels(LABELS, 10, rate, kind, seed=0)
  changed = noisy != LABELS
  assert np.mean(changed) == pytest.approx(rate * wrong, abs=0.01)
  if rate == 0:
    return
  shifts = (noisy - LABELS)[changed] % 10
  counts = np.bincount(shifts, minlength=10)[1:]
  assert counts.min() > 0.75 * counts.max()  # every other class alike
  again = label_noise.corrupt_labels(LABELS, 10, rate, kind, seed=0)
  other = label_noise.corrupt_labels(LABELS, 10, rate, kind, seed=1)
  np.testing.assert_array_equal(noisy, again)
  assert not np.array_equal(noisy, other)


def test_asymmetric_noise_follows_the_class_map():
  noisy = label_noise.corrupt_labels(LABELS, 10, 1.0, "asymmetric", seed=0)
  for source in range(10):
    target = label_noise.CIFAR10_CLASS_MAP.get(source, source)
    assert set(noisy[source == LABELS]) == {target}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((10, 0.1, "symmetrical", 0), "symmetrical"),
    ((10, 1.1, "symmetric", 0), "1.1"),
    ((100, 0.1, "asymmetric", 0), "CIFAR-10 only"),
  ],
)
def test_bad_noise_is_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    label_noise.corrupt_labels(LABELS, *arguments)


def test_digits_are_scikit_learns_split_by_class(data_dir):
  from sklearn.datasets import load_digits

  images, labels = load_digits(return_X_y=True)
  train = decoded.load_split(SPEC, "train", str(data_dir))
  test = decoded.load_split(SPEC, "test", str(data_dir))
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


def test_unwritable_data_dir_is_named_with_a_remedy(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(catalog.DatasetError, match=r"file.*Not a directory. Set"):
    decoded.load_split(SPEC, "test", str(tmp_path / "file"))


def test_two_processes_prepare_at_once(tmp_path, monkeypatch):
  """TFDS lets the one fail that is later to rename what it has made."""
  from sam_jax.datasets.builders.digits import Digits

  seen = []

  def while_another_is_faster(builder, manager):
    seen.append(builder)
    if len(seen) == 1:
      catalog.tfds_builder(SPEC, str(tmp_path)).download_and_prepare()
    image = np.zeros((8, 8, 1), np.uint8)
    return {"test": [(i, {"image": image, "label": i}) for i in range(3)]}

  monkeypatch.setattr(Digits, "_split_generators", while_another_is_faster)
  builder = catalog.prepared_builder(SPEC, str(tmp_path))
  assert len(seen) == 2
  assert builder.info.splits["test"].num_examples == 3


def test_second_load_needs_no_tensorflow(data_dir):
  decoded.load_split(SPEC, "test", str(data_dir))
  code = f"""
import sys
from sam_jax.datasets import catalog, decoded
spec = catalog.dataset_spec("digits")
split = decoded.load_split(spec, "test", {str(data_dir)!r})
assert split["image"].shape == (355, 8, 8, 1)
assert split["label"].shape == (355,)
assert not {{"tensorflow", "tensorflow_datasets"}} & set(sys.modules)
"""
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "checksums"])
def test_damaged_cache_is_made_anew(data_dir, damage, caplog):
  expected = decoded.load_split(SPEC, "test", str(data_dir))
  cache = array_cache.cache_dir(str(data_dir), "decoded", "digits", "test")
  file = cache / ("checksums.json" if damage == "checksums" else "image.npy")
  data = bytearray(file.read_bytes())
  if damage == "flip":
    data[-1] ^= 255
  else:
    data = data[: len(data) // 2]
  file.unlink()  # the arrays above are mapped to the old file
  file.write_bytes(bytes(data))
  again = decoded.load_split(SPEC, "test", str(data_dir))
  assert "damaged" in caplog.text
  for name in expected:
    np.testing.assert_array_equal(again[name], expected[name])


@pytest.mark.parametrize(
  ("name", "rest"),
  [
    ("cifar10", ""),
    ("cifar10_n", " --manual_dir=DIR, where DIR holds CIFAR-10_human_annot"),
  ],
)
def test_missing_data_set_says_how_to_prepare_it(tmp_path, name, rest):
  data_dir = str(tmp_path / "my data")
  with pytest.raises(catalog.DatasetError) as error:
    decoded.load_split(catalog.dataset_spec(name), "train", data_dir)
  command = "python -m sam_jax.datasets.prepare"
  expected = f"{command} {name} '--data_dir={data_dir}'{rest}"
  assert expected in str(error.value)
