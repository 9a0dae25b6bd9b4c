"""Logs in a bucket: whole uploads, at a bounded rate, and none is lost."""

import json
import os
import pathlib
import threading
import time

import pytest
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)

from sam_jax import paths
from sam_jax.config.schema import default_config
from sam_jax.runs import staged_logs, workdir
from sam_jax.runs.logging import MetricsWriter
from sam_jax.runs.staged_logs import StagedLogs


class Bucket:
  """A directory whose files can only be written as a whole.

  Attributes:
    uploads: Name of each file that was written, in order.
    error: Raised by every upload, unless it is None.
    is_open: Uploads wait for this event.
  """

  def __init__(self, directory):
    self._directory = directory
    self.uploads = []
    self.error = None
    self.is_open = threading.Event()
    self.is_open.set()

  def __fspath__(self):
    return "gs://bucket/run"

  __str__ = __fspath__

  def __truediv__(self, name):
    return BucketFile(self, self._directory / name)

  def iterdir(self):
    return self._directory.iterdir()


class BucketFile:
  """A file of a bucket."""

  def __init__(self, bucket, path):
    self._bucket, self._path = bucket, path
    self.exists, self.read_bytes = path.exists, path.read_bytes

  def __fspath__(self):
    return f"{os.fspath(self._bucket)}/{self._path.name}"

  def write_bytes(self, data):
    self._bucket.is_open.wait(60)
    if self._bucket.error:
      raise self._bucket.error
    self._bucket.uploads.append(self._path.name)
    self._path.write_bytes(data)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """Return a bucket that stands for gs://bucket/run; its files in `remote`.

  The time between uploads is an hour: a test sees only those that it asks for.
  """
  remote = tmp_path / "remote"
  remote.mkdir()
  found = Bucket(remote)
  resolve = paths.resolve
  monkeypatch.setattr(
    paths,
    "resolve",
    lambda path: found if paths.is_remote(path) else resolve(path),
  )
  monkeypatch.setattr(staged_logs, "_SECONDS", 3600.0)
  yield found
  found.is_open.set()


@pytest.fixture
def staging(tmp_path, monkeypatch):
  """Let logs be staged in a directory of the test; return it."""
  directory = tmp_path / "staging"
  directory.mkdir()
  monkeypatch.setattr(staged_logs.tempfile, "tempdir", str(directory))
  return directory


def wait_for(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline, "it did not come"
    time.sleep(0.005)


def write(path, text):
  with (pathlib.Path(path) / "log").open("a") as file:
    file.write(text)


def test_local_logs_are_not_copied(tmp_path):
  logs = StagedLogs(tmp_path)
  assert logs.path == tmp_path
  logs.fetch("log")
  write(logs.path, "a")
  logs.upload()
  logs.close()
  assert logs.names() == ["log"]
  assert (tmp_path / "log").read_text() == "a"


def test_uploads_are_rare_and_without_a_request(
  bucket, staging, tmp_path, monkeypatch
):
  monkeypatch.setattr(staged_logs, "_SECONDS", 0.2)
  start = time.monotonic()
  logs = StagedLogs("gs://bucket/run")
  while len(bucket.uploads) < 3:
    assert time.monotonic() < start + 60, bucket.uploads
    write(logs.path, "line\n")
    time.sleep(0.001)
  assert time.monotonic() - start >= 3 * 0.2
  logs.close()
  lines = (tmp_path / "remote/log").read_text().splitlines()
  assert len(lines) > len(bucket.uploads)
  assert set(lines) == {"line"}
  assert not list(staging.iterdir())


def test_large_files_are_uploaded_more_rarely(bucket, monkeypatch):
  monkeypatch.setattr(staged_logs, "_SECONDS", 0.01)
  monkeypatch.setattr(staged_logs, "_BYTES_PER_SECOND", 100)
  logs = StagedLogs("gs://bucket/run")
  write(logs.path, "a" * 1000)
  wait_for(lambda: bucket.uploads)
  for _ in range(20):  # 0.2 s, while 1,000 bytes are worth 10 s
    write(logs.path, "a")
    time.sleep(0.01)
  assert bucket.uploads == ["log"]
  logs.close()
  assert bucket.uploads == ["log", "log"]


def test_files_that_did_not_grow_are_not_uploaded_again(bucket):
  logs = StagedLogs("gs://bucket/run")
  write(logs.path, "a")
  (logs.path / "other").write_text("b")
  logs.upload()
  logs.upload()
  write(logs.path, "a")
  logs.close()
  logs.close()  # does nothing
  assert bucket.uploads == ["log", "other", "log"]


def read_points(directory):
  events = EventAccumulator(str(directory)).Reload()
  points = events.Scalars("train/loss")
  return [(p.step, p.value) for p in points]


def test_killed_run_continues_the_logs_of_the_bucket(bucket, tmp_path):
  """The checkpoint is that of step 2; a kill loses what came after."""
  first = MetricsWriter("gs://bucket/run", 0)
  for step in (1, 2, 3):
    first.scalars(step, "train", {"loss": step})
    if step == 2:
      first.publish()
  assert len(bucket.uploads) == 2  # metrics.jsonl and events

  second = MetricsWriter("gs://bucket/run", 2)
  for step in (3, 4):
    second.scalars(step, "train", {"loss": step})
  second.close()
  expected = [(1, 1), (2, 2), (3, 3), (4, 4)]
  lines = (tmp_path / "remote/metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": step, "train/loss": loss} for step, loss in expected
  ]
  assert read_points(tmp_path / "remote") == expected


def test_a_hiccup_is_one_warning_and_loses_nothing(bucket, tmp_path, caplog):
  caplog.set_level("INFO", "sam_jax")
  logs = StagedLogs("gs://bucket/run")
  bucket.error = RuntimeError("503 Service Unavailable\nand more")
  for _ in range(3):
    write(logs.path, "line\n")
    logs.upload()
  assert caplog.messages == [
    "Logs can't be uploaded, will try again: [Errno 5] can't be uploaded:"
    " 503 Service Unavailable: 'gs://bucket/run/log'"
  ]
  bucket.error = None
  logs.upload()
  assert (tmp_path / "remote/log").read_text() == 3 * "line\n"
  assert caplog.messages[1:] == ["Logs are uploaded again to gs://bucket/run."]
  logs.close()


def test_logs_that_can_never_be_uploaded_end_the_run(bucket, staging):
  bucket.error = PermissionError("Forbidden: b/bucket/o")
  writer = MetricsWriter("gs://bucket/run", 0)
  writer.scalars(1, "train", {"loss": 0.5})
  message = (
    r"\[Errno 5\] can't be uploaded: Forbidden: b/bucket/o \(a copy is in"
    rf" {staging}/\S+\): 'gs://bucket/run/events"
  )
  with pytest.raises(OSError, match=message):
    writer.close()
  (copy,) = staging.iterdir()
  assert (copy / "metrics.jsonl").read_text()


@pytest.mark.parametrize("kind", [FloatingPointError, OSError])
def test_an_error_of_training_hides_no_other(kind, bucket, staging, caplog):
  bucket.error = PermissionError("Forbidden: b/bucket/o")
  with (
    pytest.raises(kind, match="not finite"),
    MetricsWriter("gs://bucket/run", 0),
  ):
    raise kind("loss is not finite")
  (copy,) = staging.iterdir()
  assert "The last lines of the logs are lost: [Errno 5]" in caplog.messages[-1]
  assert f"(a copy is in {copy})" in caplog.messages[-1]


def test_an_upload_that_hangs_does_not_stop_training(
  bucket, monkeypatch, caplog
):
  for name in ("_WAIT_BEFORE_CHECKPOINT", "_WAIT_AT_END"):
    monkeypatch.setattr(staged_logs, name, 0.05)
  logs = StagedLogs("gs://bucket/run")
  write(logs.path, "a")
  bucket.is_open.clear()
  logs.upload()
  message = "gs://bucket/run: the logs were not uploaded within 0 s"
  assert caplog.messages == [message]
  with pytest.raises(OSError, match="were not uploaded within 0 s"):
    logs.close()


def test_unreadable_logs_are_left_as_they_are(bucket, tmp_path, monkeypatch):
  """A bucket that fails at the start of a resumed run costs no line."""
  (tmp_path / "remote/metrics.jsonl").write_text('{"step": 1}\n')

  def fail(_):
    raise RuntimeError("503 Service Unavailable")

  monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
  message = r"can't be read: 503 Service Unavailable: 'gs://bucket/run/metrics"
  with pytest.raises(OSError, match=message):
    MetricsWriter("gs://bucket/run", 0)
  assert not bucket.uploads


def test_failed_uploads_are_reported_as_a_lost_workdir(tmp_path):
  path = epath.Path(tmp_path / "run")
  message = rf"--workdir={path} can no longer be written: \[Errno 5\] can't be"
  with (
    pytest.raises(workdir.WorkdirLostError, match=message),
    workdir.claim(path, default_config()),
    staged_logs.one_line_errors("can't be uploaded", path / "log"),
  ):
    raise RuntimeError("403\nForbidden")
