"""Directories of arrays: all of them or none, for all who may read them."""

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


def test_others_may_read_what_they_may_read_around_it(directory):
  directory.parent.mkdir(parents=True)
  os.chmod(directory.parent, 0o755)
  array_cache.write_arrays(directory, ARRAYS)
  assert stat.S_IMODE(os.stat(directory).st_mode) == 0o755


@pytest.mark.parametrize("failing", ["rmtree", "save"])
def test_directory_that_cannot_be_written(
  directory, failing, monkeypatch, caplog
):
  """Of another user, or on a full disk: the run goes on without a cache."""

  def fail(*_, **kwargs):
    if not kwargs.get("ignore_errors"):
      raise PermissionError("not yours")

  directory.mkdir(parents=True)  # damaged: without checksums
  module = array_cache.shutil if failing == "rmtree" else array_cache.np
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


def test_remote_directories_are_left_alone():
  # They can't be mapped into memory; writing there would raise.
  array_cache.write_arrays(epath.Path("gs://no/such"), ARRAYS)
