"""Where training labels come from: files, and splits held out."""

import numpy as np
import pytest

from sam_jax.config.schema import (
  ConfigError,
  default_config,
  validate_config,
)
from sam_jax.datasets import catalog, in_memory, label_file, prepare
from sam_jax.datasets.concatenated import Concatenated
from sam_jax.datasets.in_memory import load_in_memory

SVHN = catalog.dataset_spec("svhn")
NUM = {"train": 100, "extra": 60, "test": 30}


@pytest.fixture
def svhn(monkeypatch):
  """Replaces what is on the disk: labels count, images say which split."""

  def load_split(spec, split, data_dir):
    code = list(NUM).index(split)
    images = np.full((NUM[split], 2, 2, 3), code, np.uint8)
    labels = np.arange(NUM[split], dtype=np.int32) % 10
    return {"image": images, "label": labels}

  monkeypatch.setattr(in_memory.decoded, "load_split", load_split)


def load(**kwargs):
  fields = {"data_dir": None, "validation_size": 0, "noise_rate": 0.0}
  fields |= {"noise_kind": "symmetric", "noise_seed": 0, "seed": 0}
  fields |= {"batch_size": 10, "eval_batch_size": 10, **kwargs}
  return load_in_memory(SVHN, **fields)


def test_concatenated_takes_what_the_concatenation_has():
  parts = [np.arange(6).reshape(3, 2), np.zeros((0, 2), int), -np.ones((4, 2))]
  parts[-1] = parts[-1].astype(int)
  ours, whole = Concatenated(parts), np.concatenate(parts)
  assert (len(ours), ours.shape, ours.dtype) == (7, (7, 2), whole.dtype)
  for where in (np.array([6, 0, 3, 2, 2]), np.array([], int), slice(2, 5)):
    np.testing.assert_array_equal(ours[where], whole[where])
  np.testing.assert_array_equal(ours, whole)


def test_svhn_is_not_copied(svhn, monkeypatch):
  load_split, loaded = in_memory.decoded.load_split, []

  def keep(*arguments):
    loaded.append(load_split(*arguments)["image"])
    return {**load_split(*arguments), "image": loaded[-1]}

  monkeypatch.setattr(in_memory.decoded, "load_split", keep)
  images, _ = load(validation_size=10).training_arrays()
  for part, images_of_split in zip(images._parts, loaded, strict=True):
    assert np.shares_memory(part, images_of_split)


def test_svhn_holds_out_from_train_and_keeps_extra(svhn):
  images = np.asarray(load().training_arrays()[0])
  assert np.bincount(images[:, 0, 0, 0]).tolist() == [100, 60]
  dataset = load(validation_size=10, noise_rate=1.0)
  images = np.asarray(dataset.training_arrays()[0])
  assert np.bincount(images[:, 0, 0, 0]).tolist() == [90, 60]
  (batch,) = dataset.eval_batches("test")
  assert set(batch["image"].ravel()) == {0}
  np.testing.assert_array_equal(batch["label"], np.arange(10))  # clean


def test_batches_tell_the_true_labels(svhn):
  dataset = load(noise_rate=0.5)
  batches = [next(dataset.train_batches(i)) for i in range(16)]
  given = np.concatenate([b["label"] for b in batches])
  clean = np.concatenate([b["clean_label"] for b in batches])
  assert np.bincount(clean).tolist() == [16] * 10
  assert 0.3 < np.mean(given != clean) < 0.6
  assert dataset.spec.noisy_labels and not load().spec.noisy_labels
  assert "clean_label" not in next(load().train_batches(0))


def test_labels_of_a_file(svhn, tmp_path):
  path = tmp_path / "new" / "labels.npy"
  wanted = np.arange(150) % 7
  label_file.write_labels(path, wanted)
  dataset = load(labels_path=path, validation_size=10)
  np.testing.assert_array_equal(dataset.training_arrays()[1], wanted)
  clean = np.concatenate([b["label"] for b in dataset.eval_batches("train")])
  assert not np.array_equal(clean, wanted)
  assert "clean_label" in next(dataset.train_batches(0))


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (
      np.zeros(159, int),
      "shape \\(159,\\), not one integer for each of the 160",
    ),
    (np.zeros((160, 1), int), "one integer"),
    (np.zeros(160), "float64"),
    (np.arange(160), "from 0 to 159, not from 0 to 9"),
    (np.full(160, -1), "from -1 to -1"),
    (np.array([None] * 160), "can't be read"),
  ],
  ids=str,
)
def test_bad_label_file_is_named(svhn, tmp_path, labels, message):
  path = tmp_path / "labels.npy"
  np.save(path, labels)
  with pytest.raises(catalog.DatasetError, match=message) as error:
    load(labels_path=path)
  assert f"config.dataset.label_file = {str(path)!r}" in str(error.value)


def test_labels_of_a_file_are_not_corrupted():
  config = default_config()
  config.dataset.label_file = "labels.npy"
  validate_config(config, 8)
  config.dataset.label_noise.rate = 0.4
  message = r"label_noise\.rate = 0\.4.*label_file = 'labels\.npy' says: set"
  with pytest.raises(ConfigError, match=message):
    validate_config(config, 8)


def test_asymmetric_noise_is_for_cifar10s_classes():
  config = default_config()
  config.dataset.label_noise = {"rate": 0.4, "kind": "asymmetric", "seed": 0}
  for name in ("cifar10", "cifar10_n"):
    config.dataset.name = name
    validate_config(config, 8)
  config.dataset.name = "svhn"
  with pytest.raises(ConfigError, match="not those of svhn"):
    validate_config(config, 8)


def test_missing_label_file_is_named(svhn):
  with pytest.raises(catalog.DatasetError, match=r"'nothere\.npy' can't be"):
    load(labels_path="nothere.npy")


@pytest.mark.parametrize("name", catalog.known_datasets())
def test_every_spec_is_consistent(name):
  spec = catalog.dataset_spec(name)
  channels = spec.image_shape[-1]
  assert len(spec.mean) == len(spec.std) == channels
  assert spec.test_split not in spec.train_splits
  builder = catalog.tfds_builder(spec, None)
  assert builder.info.features["label"].num_classes == spec.num_classes
  assert builder.data_path.parent.name == spec.directory
  is_manual = bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)
  assert bool(spec.manual_files) == is_manual
  assert (f"\n  {name} " in prepare.__doc__) == is_manual
  for column in (spec.label_column, *spec.noisy_label_columns):
    assert column in builder.info.features
  image = builder.info.features["image"]
  if spec.storage == catalog.IN_MEMORY:
    assert image.shape == spec.image_shape
