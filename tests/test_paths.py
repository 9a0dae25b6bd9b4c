"""Paths of flags and fields."""

import os
import subprocess
import sys

import pytest
from etils import epath

from sam_jax import paths
from sam_jax.config.schema import ConfigError


def test_local_paths_are_expanded_and_absolute(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert paths.resolve("~/runs") == tmp_path / "runs"
  assert paths.resolve("runs/a [1]") == tmp_path / "runs/a [1]"
  assert paths.resolve(tmp_path) == tmp_path
  assert not paths.is_remote(tmp_path)


def test_paths_in_buckets_stay_as_they_are():
  path = paths.resolve("gs://bucket/~/a")
  assert os.fspath(path) == "gs://bucket/~/a"
  assert paths.resolve(path) == path
  assert paths.is_remote("gs://bucket/a") and paths.is_remote(path)
  assert paths.is_remote(epath.Path("gs://bucket"))


def test_other_places_are_refused():
  with pytest.raises(ConfigError, match=r"^s3://b/a: s3:// is not supported"):
    paths.resolve("s3://b/a")


@pytest.mark.parametrize("package", ["gcsfs", "google.cloud.storage"])
def test_missing_packages_name_the_extra(package, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ConfigError) as error:
    paths.resolve("gs://bucket/run")
  remedy = "gs://bucket/run needs more packages: pip install 'sam-jax[gcs]'."
  assert str(error.value) == remedy


def test_buckets_are_accessed_without_tensorflow():
  code = (
    "import sys; from sam_jax import paths; from etils.epath import gpath;"
    "path = paths.resolve('gs://bucket');"
    "print(type(path._backend).__name__, 'tensorflow' in sys.modules)"
  )
  output = subprocess.check_output([sys.executable, "-c", code], text=True)
  assert output.split() == ["_FileSystemSpecBackend", "False"]
