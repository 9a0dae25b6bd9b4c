"""Files of gs:// directories are accessed through etils, never by `open`.

TensorFlow's real file operations run on a local directory in place of a bucket.
Checkpoints are left out: Orbax connects to Google's servers directly.
"""

import json
import os

import numpy as np
import pytest
from etils import epath
from etils.epath import backend, gpath

from sam_jax.config.schema import ConfigError, default_config
from sam_jax.datasets import array_cache
from sam_jax.datasets.labels import read_labels, write_labels
from sam_jax.models import pretrained
from sam_jax.runs import workdir
from sam_jax.runs.logging import MetricsWriter
from sam_jax.runs.profiling import Profiler

BUCKET = "gs://bucket"


class LocalBucket:
  """Run the operations of paths on gs://bucket in a local directory."""

  def __init__(self, directory):
    self._directory = directory

  def __getattr__(self, name):
    operation = getattr(self.backend, name)
    return lambda *words, **options: operation(
      *[str(word).replace(BUCKET, str(self._directory)) for word in words],
      **options,
    )

  backend = backend.tf_backend


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """Return the local directory that stands for gs://bucket."""
  monkeypatch.setitem(
    gpath._PREFIX_TO_BACKEND, "gs", LocalBucket(tmp_path / "bucket")
  )
  monkeypatch.chdir(tmp_path)
  yield tmp_path / "bucket"
  assert not (tmp_path / "gs:").exists()  # which `open` would have created


def test_workdir(bucket):
  remote = f"{BUCKET}/runs/a"
  for first_step in (0, 2):
    with workdir.claim(remote, default_config()) as path:
      writer = MetricsWriter(path, first_step)
      writer.scalars(first_step + 1, "train", {"loss": 0.5})
      writer.scalars(first_step + 3, "train", {"loss": 0.25})
      writer.close()
  workdir.write_result(path, {"error_rate": 0.5})

  assert os.fspath(path) == remote
  lines = (bucket / "runs/a/metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 3, 5]
  events = list((bucket / "runs/a").glob("events.out.tfevents.*"))
  assert len(events) == 2
  assert all(file.stat().st_size > 100 for file in events)
  assert json.loads((bucket / "runs/a/result.json").read_text())
  config = default_config()
  config.seed = 1
  with (
    pytest.raises(ConfigError, match=f"{remote} holds a run with another"),
    workdir.claim(remote, config),
  ):
    pass


def test_unreachable_workdir_gives_one_line(monkeypatch):
  def fail(*args, **kwargs):
    raise RuntimeError("no such bucket")  # TensorFlow does not raise OSError

  monkeypatch.setattr(LocalBucket, "backend", None)
  monkeypatch.setattr(LocalBucket, "__getattr__", lambda *_: fail)
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", LocalBucket(None))
  message = f"--workdir={BUCKET}/a can't be written: no such bucket. Choose"
  with (
    pytest.raises(ConfigError, match=message),
    workdir.claim(f"{BUCKET}/a", default_config()),
  ):
    pass


def test_trace(bucket):
  with Profiler("0:1", 1, epath.Path(f"{BUCKET}/run")) as profiler:
    profiler.reach(0, ())
    profiler.reach(1, ())
  files = (bucket / "run/plugins/profile/steps_0-1").iterdir()
  assert any(file.name.endswith(".xplane.pb") for file in files)


def test_arrays_and_labels(bucket, caplog):
  arrays = {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)}
  cache = array_cache.cache_dir(BUCKET, "decoded", "name")
  assert array_cache.read_arrays(cache) is None
  array_cache.write_arrays(cache, arrays)
  np.testing.assert_array_equal(
    array_cache.read_arrays(cache)["image"], arrays["image"]
  )
  file = bucket / "sam_jax_cache/decoded/name/image.npy"
  file.write_bytes(file.read_bytes()[:-1])
  assert array_cache.read_arrays(cache) is None
  assert "damaged" in caplog.text

  labels = np.array([3, 1, 2])
  write_labels(f"{BUCKET}/labels/a.npy", labels)
  read = read_labels(f"{BUCKET}/labels/a.npy", 3, 4)
  np.testing.assert_array_equal(read, labels)


def test_pretrained_checkpoint(bucket):
  bucket.mkdir()
  params = {"params": {"kernel": np.ones((2, 3), np.float32)}}
  (bucket / "checkpoint").write_bytes(pretrained.to_bytes(params))
  read = pretrained.read_checkpoint(f"{BUCKET}/checkpoint")
  assert list(read.params) == ["kernel"]
  with pytest.raises(ValueError, match=f"{BUCKET} is a directory"):
    pretrained.read_checkpoint(BUCKET)
