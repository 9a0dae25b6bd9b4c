"""Cached arrays: all of them or none, for all who may read them."""

import os
import stat

import numpy as np
import pytest
from etils import epath

from sam_jax.datasets import array_cache

ARRAYS = {"image": np.arange(6, dtype=np.uint8), "label": np.arange(3)}


@pytest.fixture
def directory(tmp_path):
  return epath.Path(tmp_path) / "decoded" / "digits" / "train"


def test_arrays_are_mapped_as_written(directory):
  assert array_cache.read_arrays(directory) is None
  array_cache.write_arrays(directory, ARRAYS)
  arrays = array_cache.read_arrays(directory)
  assert arrays.keys() == ARRAYS.keys()
  for name, array in arrays.items():
    assert isinstance(array, np.memmap)
    assert array.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize(
  ("file", "content"),
  [
    ("image.npy", b""),
    ("checksums.json", b""),
    ("checksums.json", b"{}"),
    ("checksums.json", b'{"arrays": {}, "source": null}'),
    ("checksums.json", b'{"arrays": {"image": "?"}, "source": null}'),
    ("checksums.json", b"[]"),
  ],
)
def test_damaged_files_are_no_arrays(directory, file, content, caplog):
  array_cache.write_arrays(directory, ARRAYS)
  (directory / file).unlink()
  (directory / file).write_bytes(content)
  assert array_cache.read_arrays(directory) is None
  assert "damaged; creating them again" in caplog.text


def test_arrays_of_another_source_are_not_read(directory):
  array_cache.write_arrays(directory, ARRAYS, [["a", 1]])
  assert array_cache.read_arrays(directory, [["a", 1]]).keys() == ARRAYS.keys()
  assert array_cache.read_arrays(directory, [["a", 2]]) is None
  array_cache.write_arrays(directory, ARRAYS, [["a", 2]])
  assert array_cache.read_arrays(directory, [["a", 1]]) is None


def test_files_are_on_the_disk_before_they_have_their_name(
  directory, monkeypatch
):
  events = []
  for name in ("fsync", "rename"):
    real = getattr(os, name)

    def note(*args, name=name, real=real):
      events.append(name)
      return real(*args)

    monkeypatch.setattr(array_cache.os, name, note)
  array_cache.write_arrays(directory, ARRAYS)
  assert events[:3] == ["fsync"] * 3
  assert set(events[3:]) == {"rename"}


def test_readers_find_the_old_arrays_or_the_new_ones(directory, monkeypatch):
  """Many runs of a sweep start at once, and all of them decode."""
  array_cache.write_arrays(directory, ARRAYS, "old")
  found = []
  rename = os.rename

  def note():
    sources = ("old", "new")
    found.append([s for s in sources if array_cache.read_arrays(directory, s)])

  def read_before_and_after(*args):
    note()
    rename(*args)
    note()

  monkeypatch.setattr(array_cache.os, "rename", read_before_and_after)
  array_cache.write_arrays(directory, ARRAYS, "new")
  assert found == [["old"], [], [], ["new"]]
  assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_others_may_read_what_they_may_read_around_it(directory):
  directory.parent.mkdir(parents=True)
  os.chmod(directory.parent, 0o755)
  array_cache.write_arrays(directory, ARRAYS)
  assert stat.S_IMODE(os.stat(directory).st_mode) == 0o755


@pytest.mark.parametrize("failing", ["rename", "save"])
def test_directory_that_cannot_be_written(
  directory, failing, monkeypatch, caplog
):
  """The run continues without a cache, on another user's or a full disk."""

  def fail(*_, **__):
    raise PermissionError("not yours")

  directory.mkdir(parents=True)  # damaged: without checksums
  module = array_cache.os if failing == "rename" else array_cache.np
  monkeypatch.setattr(module, failing, fail)
  array_cache.write_arrays(directory, ARRAYS)
  assert "not yours" in caplog.text
  assert array_cache.read_arrays(directory) is None


def test_nothing_is_left_of_a_failure(directory, monkeypatch):
  def fail(*_):
    raise OSError("full")

  monkeypatch.setattr(array_cache.os, "rename", fail)
  array_cache.write_arrays(directory, ARRAYS)
  assert list(directory.parent.iterdir()) == []


def test_remote_directory_that_cannot_be_written(
  directory, monkeypatch, caplog
):
  """Errors of gs:// are not OSErrors."""

  def fail(*_, **__):
    raise RuntimeError("no such bucket")

  monkeypatch.setattr(array_cache.paths, "is_remote", lambda path: True)
  monkeypatch.setattr(array_cache.np, "save", fail)
  array_cache.write_arrays(directory, ARRAYS)
  assert f"Can't cache arrays in {directory}: no such bucket" in caplog.text
