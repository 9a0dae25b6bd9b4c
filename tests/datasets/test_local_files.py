"""Data sets that are prepared from files which users already have."""

import gzip
import hashlib
import pathlib
import shutil

import numpy as np
import pytest
from tensorflow_datasets.image_classification import mnist

from sam_jax.datasets import (
  catalog,
  idx_files,
  in_memory,
  local_files,
  tfds_files,
)
from tests.datasets import archives
from tests.datasets.preparation import error_of, prepared_bytes, run

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def idx(tmp_path, monkeypatch):
  """Return a directory of small IDX files that pass as Fashion-MNIST's."""
  directory = tmp_path / "idx"
  directory.mkdir()
  monkeypatch.setattr(archives, "RANDOM", np.random.default_rng(0))
  archives.write_fashion_mnist(directory)
  contents = {
    file: gzip.decompress((directory / f"{file}.gz").read_bytes())
    for file in idx_files.FILES
  }
  checksums = {f: hashlib.sha256(c).hexdigest() for f, c in contents.items()}
  monkeypatch.setitem(idx_files.SHA256, "fashion_mnist", checksums)
  monkeypatch.setattr(idx_files, "COUNTS", {"train": 40, "t10k": 11})
  monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 40)
  monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 11)
  monkeypatch.setattr(local_files, "INSTALLED", {})
  return directory


def test_idx_files_become_what_tfds_prepares(idx, tmp_path):
  spec = catalog.dataset_spec("fashion_mnist")
  builder = tfds_files.tfds_builder(spec, str(tmp_path / "tfds"))
  archives.prepare(builder, idx)  # from TFDS's own downloads
  for file in idx_files.FILES[:2]:  # compressed or not
    content = gzip.decompress((idx / f"{file}.gz").read_bytes())
    (idx / file).write_bytes(content)
    (idx / f"{file}.gz").unlink()
  run(tmp_path / "ours", "fashion_mnist", manual_dir=str(idx))
  ours = prepared_bytes(tmp_path / "ours", "fashion_mnist")
  assert ours == prepared_bytes(tmp_path / "tfds", "fashion_mnist")
  assert len(ours[0]) == 4  # two splits, features, names of classes


@pytest.mark.parametrize("place", ["installed", "downloads/manual"])
def test_files_are_found_without_a_flag(place, idx, tmp_path, monkeypatch):
  if place == "installed":
    monkeypatch.setattr(local_files, "INSTALLED", {"fashion_mnist": idx})
  else:
    shutil.copytree(idx, tmp_path / "data" / place)
  run(tmp_path / "data", "fashion_mnist")
  spec = catalog.dataset_spec("fashion_mnist")
  arrays = in_memory.load_split(spec, "test", str(tmp_path / "data"))
  labels = gzip.decompress((idx / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
  assert sorted(arrays["label"].tolist()) == sorted(labels)


def test_each_data_set_may_have_a_directory_of_its_name(idx, tmp_path, caplog):
  shutil.copytree(idx, tmp_path / "manual" / "kmnist")
  message = error_of(
    tmp_path / "data", "kmnist", manual_dir=str(tmp_path / "manual")
  )
  assert (
    "kmnist/train-images-idx3-ubyte.gz is that of fashion_mnist." in message
  )
  archives.write_fashion_mnist(tmp_path / "manual" / "kmnist")
  run(tmp_path / "data", "kmnist", manual_dir=str(tmp_path / "manual"))
  assert (
    "kmnist: the checksums of its decompressed files are not" in caplog.text
  )
  spec = catalog.dataset_spec("kmnist")
  info = tfds_files.prepared_builder(spec, str(tmp_path / "data")).info
  assert info.features["label"].names[:3] == ["o", "ki", "su"]
  assert info.splits["train"].num_examples == 40


def edited(idx, file, edit):
  path = idx / f"{file}.gz"
  path.write_bytes(gzip.compress(edit(gzip.decompress(path.read_bytes()))))


@pytest.mark.parametrize(
  ("file", "edit", "problem"),
  [
    ("t10k-images", lambda c: c[:-1], "has 8,639 bytes, not 8,640"),
    ("t10k-labels", lambda c: b"\1" + c[1:], "begins with [16779265, 11], not"),
    ("t10k-labels", lambda c: c[:-1] + b"\12", "has the label 10, with 10 cla"),
  ],
)
def test_format_is_checked_where_no_checksum_is_known(
  file, edit, problem, idx, tmp_path, monkeypatch
):
  monkeypatch.setitem(idx_files.SHA256, "fashion_mnist", {})
  suffix = "idx3-ubyte" if "images" in file else "idx1-ubyte"
  edited(idx, f"{file}-{suffix}", edit)
  message = error_of(tmp_path / "data", "kmnist", manual_dir=str(idx))
  assert f"{file}-{suffix}.gz {problem}" in message


def test_other_content_is_refused(idx, tmp_path):
  """The data set is not written, and can be once the file is there."""
  path = idx / "train-labels-idx1-ubyte.gz"
  published = path.read_bytes()

  def error():
    message = error_of(tmp_path / "data", "fashion_mnist", manual_dir=str(idx))
    assert not list((tmp_path / "data").glob("fashion_mnist/*"))
    return message

  edited(idx, "train-labels-idx1-ubyte", lambda c: c[:-1] + b"\0")
  known = idx_files.SHA256["fashion_mnist"]["train-labels-idx1-ubyte"]
  assert f"not {known}. Copy the published file" in error()
  path.write_bytes(published[:-9])
  assert f"{path} can't be read: " in error()
  path.unlink()
  assert f"{idx} lacks train-labels-idx1-ubyte, compressed (.gz)" in error()
  path.write_bytes(published)
  run(tmp_path / "data", "fashion_mnist", manual_dir=str(idx))


def test_interrupt_leaves_nothing(idx, tmp_path, monkeypatch):
  def interrupted(*args, **kwargs):
    yield 0, {"image": np.zeros((28, 28, 1), np.uint8), "label": 0}
    raise KeyboardInterrupt

  monkeypatch.setattr(mnist.MNIST, "_generate_examples", interrupted)
  staging = tmp_path / "staging"
  staging.mkdir()
  monkeypatch.setattr(local_files.tempfile, "tempdir", str(staging))
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "data", "fashion_mnist", manual_dir=str(idx))
  assert not list((tmp_path / "data" / "fashion_mnist").iterdir())
  assert not list(staging.glob("sam_jax_*"))


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs dataset-fashion-mnist")
def test_debian_files_have_the_published_content(tmp_path):
  files = idx_files.decompress("fashion_mnist", DEBIAN, tmp_path)
  for name, path in files.items():
    header = (DEBIAN / name).read_bytes()[:10]
    assert header[:4] == b"\x1f\x8b\x08\x00"  # no name of the original
    assert path.stat().st_size > 10_000
  labels = np.frombuffer(
    files["t10k-labels-idx1-ubyte.gz"].read_bytes(), np.uint8, offset=8
  )
  assert np.bincount(labels).tolist() == [1000] * 10


def test_manual_directory_must_exist(tmp_path, capsys):
  missing = str(tmp_path / "idx")
  with pytest.raises(SystemExit) as error:
    run(tmp_path / "data", "mnist", manual_dir=missing)
  assert error.value.code == 2
  said = capsys.readouterr().err
  assert (
    said == f"error: --manual_dir={missing} is no directory of this machine.\n"
  )
