"""Data that another version of TFDS prepared."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sam_jax.datasets import catalog, in_memory, tfds_files
from sam_jax.datasets.streaming import load_streaming
from tests.bucket import ROOT
from tests.datasets import archives

CIFAR10 = catalog.dataset_spec("cifar10")
OWN_VERSION = tfds.builder_cls("cifar10").VERSION


def prepare_cifar10(directory, seed, version=OWN_VERSION):
  """Prepare images decided by a seed as a version of CIFAR-10."""
  downloads = directory / f"downloads of {version}"
  downloads.mkdir()
  archives.RANDOM = np.random.default_rng(seed)
  archives.write_cifar10(downloads)
  data_dir = str(directory / f"prepared as {version}")
  builder = tfds_files.tfds_builder(CIFAR10, data_dir)
  archives.prepare(builder, downloads)
  return move(builder, directory / "data/cifar10" / str(version))


def move(builder, target):
  """Move prepared data to the directory of another version."""
  info = builder.data_path / "dataset_info.json"
  content = json.loads(info.read_text())
  info.write_text(json.dumps({**content, "version": target.name}))
  target.parent.mkdir(parents=True, exist_ok=True)
  return builder.data_path.rename(target)


@pytest.fixture(autouse=True)
def restored_random(monkeypatch):
  monkeypatch.setattr(archives, "RANDOM", archives.RANDOM)


def test_imagenet_of_an_older_version_is_used(tmp_path, caplog):
  """TFDS supports 5.0.0, which lacks the test split alone."""
  caplog.set_level("INFO", "sam_jax")
  spec = catalog.dataset_spec("imagenet2012").with_image_size(16)
  archives.write_imagenet(tmp_path)
  data_dir = str(tmp_path / "data")
  builder = tfds_files.tfds_builder(spec, data_dir)
  archives.prepare(builder, tmp_path)
  old = move(builder, builder.data_path.parent / "5.0.0")
  (old / "features.json").unlink()  # which TFDS wrote from 2020 on
  found = tfds_files.prepared_builder(spec, data_dir)
  assert found.data_path == old
  assert f"Using version 5.0.0 of imagenet2012: {old}" in caplog.text
  data = load_streaming(
    spec,
    data_dir=data_dir,
    validation_size=0,
    crops_at_random=False,
    seed=0,
    batch_size=10,
    eval_batch_size=11,
  )
  (batch,) = data.eval_batches("test")
  assert batch["mask"].sum() == 11
  # Preparing it again would take 150 GB.
  again = tfds_files.download_and_prepare(spec, data_dir)
  assert again.data_path == old


def test_version_with_the_same_examples_is_used_until_there_is_a_newer(
  tmp_path,
):
  data_dir = str(tmp_path / "data")
  own = OWN_VERSION
  older = f"{own.major}.{own.minor}.{own.patch - 1}"
  images = []
  for seed, version in enumerate((older, OWN_VERSION)):
    prepare_cifar10(tmp_path, seed, version)
    found = tfds_files.prepared_builder(CIFAR10, data_dir)
    assert found.data_path.name == str(version)
    arrays = in_memory.load_split(CIFAR10, "train", data_dir)
    images.append(np.array(arrays["image"]))
    again = in_memory.load_split(CIFAR10, "train", data_dir)
    np.testing.assert_array_equal(again["image"], images[-1])
  assert not np.array_equal(*images)


def test_decoded_arrays_belong_to_a_version_of_tfds(tmp_path, monkeypatch):
  """Another TFDS may prefer another one of the versions on the disk."""
  data_dir = str(tmp_path / "data")
  prepare_cifar10(tmp_path, 0)
  in_memory.load_split(CIFAR10, "test", data_dir)
  monkeypatch.setattr(in_memory, "_decode", None)
  in_memory.load_split(CIFAR10, "test", data_dir)
  monkeypatch.setattr(in_memory.metadata, "version", lambda name: "5.0.0")
  with pytest.raises(TypeError):  # it is decoded again
    in_memory.load_split(CIFAR10, "test", data_dir)


@pytest.mark.parametrize("version", ["2.0.0", "3.0.1"])
def test_version_that_does_not_fit_is_named(tmp_path, version):
  """TFDS has no code for the first; the second has no features.json."""
  directory = prepare_cifar10(tmp_path, 0, version)
  (directory / "features.json").unlink()
  (directory.parent / "9.9.9.incomplete").mkdir()
  (directory.parent / "1.0.0").mkdir()  # has no dataset_info.json
  with pytest.raises(catalog.DatasetError) as error:
    tfds_files.prepared_builder(CIFAR10, str(tmp_path / "data"))
  message = str(error.value)
  found = f"/{OWN_VERSION}. Found version(s) {version} there, which TFDS 4"
  assert found in message
  assert "prepare the data set again. Prepare it with: python -m" in message
  assert "\n" not in message


def test_versions_in_a_bucket(bucket, tmp_path):
  """One has the same examples, the other is of before features.json."""
  older = f"{OWN_VERSION.major}.{OWN_VERSION.minor}.{OWN_VERSION.patch - 1}"
  images = []
  for seed, version in enumerate((older, OWN_VERSION)):
    directory = prepare_cifar10(tmp_path, seed, version)
    if version == OWN_VERSION:
      (directory / "features.json").unlink()
    for file in directory.iterdir():
      bucket.write(f"tfds/cifar10/{version}/{file.name}", file.read_bytes())
    arrays = in_memory.load_split(CIFAR10, "test", str(tmp_path / "data"))
    found = in_memory.load_split(CIFAR10, "test", f"{ROOT}/tfds")
    np.testing.assert_array_equal(found["image"], arrays["image"])
    images.append(found["image"])
  assert not np.array_equal(*images)
