"""Files of labels, and corrupted labels."""

import pickle
import zipfile

import numpy as np
import pytest

from sam_jax.config.schema import (
  ConfigError,
  default_config,
  validate_config,
)
from sam_jax.datasets import catalog, labels

LABELS = np.random.default_rng(0).integers(10, size=20000).astype(np.int32)
# For each kind: the labels 0..9, 0..9 after 50% noise with seed 3.
RECORDED = {
  "symmetric": "11224184590621453489",
  "symmetric_other": "21254741490825459189",
  "asymmetric": "01254367890125456789",
}


def test_labels_are_read_as_written(tmp_path):
  path = tmp_path / "new" / "labels.npy"
  labels.write_labels(path, np.arange(5))
  found = labels.read_labels(path, 5, 5)
  assert found.tolist() == [0, 1, 2, 3, 4] and found.dtype == np.int32


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (
      np.zeros(159, int),
      "shape \\(159,\\), not one integer for each of the 160",
    ),
    (np.zeros((160, 1), int), "one integer"),
    (np.zeros(160), "float64"),
    (np.arange(160), "from 0 to 159, not from 0 to 9"),
    (np.full(160, -1), "from -1 to -1"),
    (np.array([None] * 160), "not a .npy file of integers"),
  ],
  ids=str,
)
def test_bad_label_file_is_named(tmp_path, content, message):
  path = tmp_path / "labels.npy"
  np.save(path, content)
  with pytest.raises(catalog.DatasetError, match=message) as error:
    labels.read_labels(path, 160, 10)
  assert f"config.dataset.label_file = {str(path)!r}" in str(error.value)


class Unpickled:
  """Report if anything makes it from a pickle."""

  def __reduce__(self):
    return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize("kind", ["npz", "pt", "csv", "pickle", "empty", "cut"])
def test_files_of_another_kind_are_named(tmp_path, kind):
  path = tmp_path / f"labels.{kind}"
  numbers = np.arange(160) % 10
  if kind == "npz":
    np.savez(path.open("wb"), labels=numbers)
  elif kind == "pt":
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("labels/data.pkl", pickle.dumps(Unpickled()))
  elif kind == "csv":
    np.savetxt(path, numbers, "%d", header="label")
  elif kind == "pickle":
    path.write_bytes(pickle.dumps(Unpickled()))
  elif kind == "empty":
    path.touch()
  else:
    np.save(path.open("wb"), numbers)
    path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(catalog.DatasetError) as error:
    labels.read_labels(path, 160, 10)
  field = f"config.dataset.label_file = {str(path)!r}"
  assert str(error.value).startswith(f"{field} is not a .npy file of integers.")
  assert "allow_pickle" not in str(error.value)


def test_missing_label_file_is_named():
  with pytest.raises(
    catalog.DatasetError, match=r"'nothere\.npy' can't be read: No such file"
  ):
    labels.read_labels("nothere.npy", 160, 10)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.8, 1.0])
@pytest.mark.parametrize(
  ("kind", "wrong"), [("symmetric", 0.9), ("symmetric_other", 1.0)]
)
def test_symmetric_noise(kind, wrong, rate):
  noisy = labels.corrupt_labels(LABELS, 10, rate, kind, seed=0)
  changed = noisy != LABELS
  assert np.mean(changed) == pytest.approx(rate * wrong, abs=0.01)
  if rate == 0:
    return
  shifts = (noisy - LABELS)[changed] % 10
  counts = np.bincount(shifts, minlength=10)[1:]
  assert counts.min() > 0.75 * counts.max()  # every other class alike
  again = labels.corrupt_labels(LABELS, 10, rate, kind, seed=0)
  other = labels.corrupt_labels(LABELS, 10, rate, kind, seed=1)
  np.testing.assert_array_equal(noisy, again)
  assert not np.array_equal(noisy, other)


def test_asymmetric_noise_follows_the_class_map():
  noisy = labels.corrupt_labels(LABELS, 10, 1.0, "asymmetric", seed=0)
  for source in range(10):
    target = labels.CIFAR10_CLASS_MAP.get(source, source)
    assert set(noisy[source == LABELS]) == {target}


@pytest.mark.parametrize("kind", labels.NOISE_KINDS)
def test_noise_is_the_recorded_one(kind):
  """Another draw would change every run with label noise."""
  noisy = labels.corrupt_labels(np.arange(20) % 10, 10, 0.5, kind, seed=3)
  assert "".join(map(str, noisy)) == RECORDED[kind]


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
    labels.corrupt_labels(LABELS, *arguments)


def test_labels_of_a_file_are_not_corrupted():
  config = default_config()
  config.dataset.label_file = "labels.npy"
  validate_config(config, 8)
  config.dataset.label_noise.rate = 0.4
  message = r"label_noise\.rate = 0\.4.*label_file = 'labels\.npy': set"
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
