"""The Python version of CIFAR, in the form in which Python 2 pickled it."""

import dataclasses
import hashlib
import os
import pickle
import shutil
import socket
import struct
import tarfile
import warnings

import numpy as np
import pytest

from sam_jax.datasets import catalog, cifar_python, tfds_files
from tests.datasets import archives
from tests.datasets.preparation import error_of, prepared_bytes, run


def text(value):
  """Return a str of Python 2 as its cPickle writes it, protocol 2."""
  data = value if isinstance(value, bytes) else value.encode()
  if len(data) < 256:
    return b"U" + struct.pack("<B", len(data)) + data
  return b"T" + struct.pack("<i", len(data)) + data


def number(value):
  return (
    b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
  )


def sequence(values):
  """Return a list, written in parts of 1,000 as cPickle does."""
  parts = [values[i : i + 1000] for i in range(0, len(values), 1000)]
  encode = text if isinstance(values[0], str) else number
  return b"]" + b"".join(
    b"(" + b"".join(map(encode, part)) + b"e" for part in parts
  )


def array(values):
  """Return a uint8 matrix in C order."""
  rows, columns = map(number, values.shape)
  dtype = b"cnumpy\ndtype\n" + text("u1") + b"K\0K\1\x87R"
  dtype += b"(K\3" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
  new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
  new += b"K\0\x85" + text("b") + b"\x87R"
  data = text(values.tobytes())
  return (
    new + b"(K\1" + rows + columns + b"\x86" + dtype + b"\x89" + data + b"tb"
  )


def dictionary(**entries):
  pairs = b"".join(text(key) + value for key, value in entries.items())
  return b"\x80\2}(" + pairs + b"u."


def batch(rows, **labels):
  """Return a batch from its binary rows."""
  names = [f"image_s_{i:06}.png" for i in range(len(rows))]
  return dictionary(
    batch_label=text("training batch 1 of 5"),
    **{key: sequence(values.tolist()) for key, values in labels.items()},
    data=array(rows[:, len(labels) :]),
    filenames=sequence(names),
  )


def names(prefix, count):
  return sequence([f"{prefix}{i}" for i in range(count)])


META = {
  "cifar10": (
    "batches.meta",
    dictionary(
      num_cases_per_batch=number(10_000),
      label_names=names("class", 10),
      num_vis=number(3072),
    ),
  ),
  "cifar100": (
    "meta",
    dictionary(
      fine_label_names=names("fine", 100),
      coarse_label_names=names("coarse", 20),
    ),
  ),
}


@pytest.fixture
def versions(tmp_path, monkeypatch):
  """Return a function that writes both versions of the same small CIFAR."""

  def write(name):
    binary, python = tmp_path / "binary", tmp_path / "python"
    binary.mkdir()
    getattr(archives, f"write_{name}")(binary)
    layout = cifar_python.LAYOUTS[name]
    meta, content = META[name]
    files = {meta: content}
    with tarfile.open(binary / layout.binary_archive) as tar:
      for file, source in layout.batches.items():
        data = tar.extractfile(f"{layout.binary_directory}/{file}").read()
        rows = np.frombuffer(data, np.uint8)
        rows = rows.reshape(-1, len(layout.label_keys) + 3072)
        columns = zip(layout.label_keys, rows.T, strict=False)
        files[source] = batch(rows, **dict(columns))
    assert set(files) == set(layout.md5)
    md5 = {file: hashlib.md5(data).hexdigest() for file, data in files.items()}
    small = dataclasses.replace(layout, md5=md5)
    monkeypatch.setitem(cifar_python.LAYOUTS, name, small)
    (python / layout.directory).mkdir(parents=True)
    for file, data in files.items():
      (python / layout.directory / file).write_bytes(data)
    return binary, python

  return write


@pytest.mark.parametrize(
  ("name", "packed"), [("cifar10", True), ("cifar100", False)]
)
def test_both_versions_become_the_same(name, packed, versions, tmp_path):
  binary, python = versions(name)
  layout = cifar_python.LAYOUTS[name]
  if packed:
    directory = python / layout.directory
    with tarfile.open(python / layout.archive, "w:gz") as tar:
      tar.add(directory, layout.directory)
    shutil.rmtree(directory)
  spec = catalog.dataset_spec(name)
  builder = tfds_files.tfds_builder(spec, str(tmp_path / "tfds"))
  archives.prepare(builder, binary)
  run(tmp_path / "ours", name, manual_dir=str(python))
  ours = prepared_bytes(tmp_path / "ours", name)
  assert ours == prepared_bytes(tmp_path / "tfds", name)
  info = tfds_files.prepared_builder(spec, str(tmp_path / "ours")).info
  assert len(info.features["label"].names) == spec.num_classes
  assert info.splits["train"].num_examples == 40


def test_pickles_are_those_of_python_2(versions):
  """Compare with pickle, which reads the same from the files written here."""
  _, python = versions("cifar10")
  content = (python / "cifar-10-batches-py" / "data_batch_2").read_bytes()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the old name of numpy's module
    expected = pickle.loads(content, encoding="latin1")
  lists, array = cifar_python._parse(content)
  assert lists["labels"] == expected["labels"]
  assert lists["filenames"] == expected["filenames"]
  assert array == expected["data"].tobytes()


def test_long_lists_are_read_whole():
  labels = [i % 256 for i in range(2500)]
  content = dictionary(labels=sequence(labels), other=text("x"))
  assert cifar_python._parse(content) == ({"labels": labels}, b"")


class Malicious:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_code_in_a_pickle_never_runs(versions, tmp_path, monkeypatch):
  """Such a file is refused, even if its checksum is that of the layout."""
  _, python = versions("cifar10")
  path = python / "cifar-10-batches-py" / "data_batch_1"
  made = tmp_path / "made"
  content = pickle.dumps({"labels": Malicious(str(made))}, 2)
  path.write_bytes(content)
  known = hashlib.md5(content).hexdigest()
  assert f"has the MD5 {known}, not" in error_of(
    tmp_path / "data", "cifar10", manual_dir=str(python)
  )
  layout = cifar_python.LAYOUTS["cifar10"]
  md5 = {**layout.md5, "data_batch_1": known}
  layout = dataclasses.replace(layout, md5=md5)
  monkeypatch.setitem(cifar_python.LAYOUTS, "cifar10", layout)
  message = error_of(tmp_path / "data", "cifar10", manual_dir=str(python))
  assert f"Put cifar-10-binary.tar.gz into {python}" in message
  assert not made.exists()


def test_damaged_archives_are_refused(versions, tmp_path):
  _, python = versions("cifar100")
  directory = python / "cifar-100-python"
  (directory / "test").unlink()
  message = error_of(tmp_path / "data", "cifar100", manual_dir=str(python))
  assert f"{directory} can't be read: " in message
  shutil.rmtree(directory)
  archive = python / "cifar-100-python.tar.gz"
  archive.write_bytes(b"<html>")
  message = error_of(tmp_path / "data", "cifar100", manual_dir=str(python))
  assert f"{archive} can't be read: " in message


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_tfds_checks_its_own_archives(name, tmp_path, monkeypatch):
  """TFDS takes them from the directory, and reads none that is another."""
  monkeypatch.setattr(socket, "getaddrinfo", pytest.fail)
  getattr(archives, f"write_{name}")(tmp_path)
  message = error_of(tmp_path / "data", name, manual_dir=str(tmp_path))
  assert f"downloaded to {tmp_path}/" in message and "wrong checksum" in message
