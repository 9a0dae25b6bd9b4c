"""CIFAR-10-C and CIFAR-100-C, as published and as TFDS prepares them."""

import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sam_jax.datasets import corrupted
from sam_jax.datasets.catalog import DatasetError
from tests.datasets import archives

ALL = (*corrupted.STANDARD, *corrupted.EXTRA)


def test_corruptions_are_those_of_the_paper():
  from tensorflow_datasets.image_classification import cifar10_corrupted

  def names(corruptions):
    return [corrupted._tfds_config(name, 1)[:-2] for name in corruptions]

  standard = cifar10_corrupted.BENCHMARK_CORRUPTIONS
  assert names(corrupted.STANDARD) == standard
  extra = cifar10_corrupted.EXTRA_CORRUPTIONS
  assert sorted(names(corrupted.EXTRA)) == extra
  files = cifar10_corrupted._CORRUPTIONS_TO_FILENAMES
  for corruption in ALL:
    (name,) = names([corruption])
    assert files[name] == f"{corruption}.npy"


@pytest.mark.parametrize(
  ("name", "directory", "num_classes"),
  [("cifar10_c", "CIFAR-10-C", 10), ("cifar100_c", "CIFAR-100-C", 100)],
)
def test_published_files(tmp_path, name, directory, num_classes):
  files = archives.write_corrupted(
    tmp_path, directory, ALL, num_classes=num_classes
  )
  found = corrupted.find(name, str(tmp_path))
  assert found.spec.num_classes == num_classes
  assert found.path == tmp_path / directory
  for corruption in ("glass_blur", "saturate"):
    images, labels = found.load(corruption)
    assert isinstance(images, np.memmap)
    np.testing.assert_array_equal(images, files[corruption])
    np.testing.assert_array_equal(labels, files["labels"])


def test_files_that_tfds_prepared(tmp_path, monkeypatch):
  monkeypatch.setattr(corrupted, "STANDARD", ("elastic_transform",))
  monkeypatch.setattr(corrupted, "EXTRA", ())
  name = "elastic_transform"
  files = archives.write_corrupted(tmp_path, "CIFAR-10-C", [name])
  with tarfile.open(tmp_path / "CIFAR-10-C.tar", "w") as tar:
    tar.add(tmp_path / "CIFAR-10-C", "CIFAR-10-C")
  data_dir = tmp_path / "data"
  for severity in range(1, 6):
    config = f"cifar10_corrupted/elastic_{severity}"
    archives.prepare(tfds.builder(config, data_dir=data_dir), tmp_path)
  found = corrupted.find("cifar10_c", str(data_dir))
  images, labels = found.load(name)
  for severity in range(5):  # TFDS shuffles the images of a severity
    part = slice(6 * severity, 6 * severity + 6)
    examples = zip(images[part], labels[part], strict=True)
    expected = zip(files[name][part], files["labels"][part], strict=True)
    assert sorted((x.tobytes(), y) for x, y in examples) == sorted(
      (x.tobytes(), y) for x, y in expected
    )
  directory = data_dir / "cifar10_corrupted/elastic_4"
  directory.rename(tmp_path / "elsewhere")
  with pytest.raises(DatasetError, match=f"{directory} is missing. Fetch"):
    corrupted.find("cifar10_c", str(data_dir))


def test_missing_data_set_has_its_address(tmp_path):
  with pytest.raises(DatasetError) as error:
    corrupted.find("cifar100_c", str(tmp_path))
  assert str(error.value) == (
    f"Data set 'cifar100_c': there is no {tmp_path}/CIFAR-100-C. Unpack"
    f" CIFAR-100-C.tar of https://zenodo.org/records/3555552 in {tmp_path}, or"
    " give --data_dir."
  )


def write_pickle(path):
  np.save(path, np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize(
  ("name", "spoil", "message"),
  [
    ("fog", lambda path: path.unlink(), "fog.npy is missing. Fetch the whole"),
    ("fog", write_pickle, "fog.npy can't be read: .*Fetch it again"),
    (
      "fog",
      lambda path: path.write_bytes(path.read_bytes()[:-1]),
      "fog.npy can't be read: .*Fetch it again",
    ),
    (
      "fog",
      lambda path: np.save(path, np.zeros((10, 32, 32, 3), np.uint8)),
      r"fog.npy holds uint8\[10, 32, 32, 3\], not uint8\[30, 32, 32, 3\]",
    ),
    (
      "labels",
      lambda path: np.save(path, np.zeros(30)),
      r"labels.npy holds float64\[30\], not integers of 5 severities",
    ),
    (
      "labels",
      lambda path: np.save(path, np.zeros(31, int)),
      r"labels.npy holds int64\[31\], not integers of 5",
    ),
  ],
)
def test_damaged_files_are_found_before_any_evaluation(
  tmp_path, name, spoil, message
):
  archives.write_corrupted(tmp_path, "CIFAR-10-C", ALL)
  spoil(tmp_path / "CIFAR-10-C" / f"{name}.npy")
  with pytest.raises(DatasetError, match=message) as error:
    corrupted.find("cifar10_c", str(tmp_path))
  assert "\n" not in str(error.value)
