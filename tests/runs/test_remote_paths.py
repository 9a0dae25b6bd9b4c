"""Files of gs:// directories, and buckets that can't be accessed."""

import json
import time

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sam_jax import buckets, paths
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.datasets import array_cache
from sam_jax.datasets.labels import read_labels, write_labels
from sam_jax.runs import files, sweep, workdir
from sam_jax.runs.profiling import Profiler
from tests.bucket import ROOT
from tests.in_process import run_script
from tests.processes import CACHE

RUN = f"{ROOT}/runs/a"


def test_files_appear_whole_and_without_a_rename(bucket):
  files.write_atomically(f"{RUN}/a.txt", "new\n")
  files.write_atomically(f"{RUN}/a.txt", "newer\n")
  assert {n: bucket.read(n) for n in bucket.names()} == {
    "runs/a/a.txt": b"newer\n"
  }
  kinds = ("DELETE", "rewriteTo", "moveTo")
  assert not [r for r in bucket.requests if any(kind in r for kind in kinds)]


def test_files_of_other_processes_are_seen(bucket):
  path = paths.resolve(RUN)
  path.mkdir(parents=True, exist_ok=True)
  assert not path.exists() and not (path / "b").exists()
  bucket.write("runs/a/b", b"1")
  assert path.is_dir() and [file.name for file in path.iterdir()] == ["b"]
  bucket.write("runs/a/b", b"2")
  assert (path / "b").read_text() == "2"
  del bucket.objects["runs/a/b"]
  assert not (path / "b").exists()


def test_trace(bucket):
  with Profiler("0:1", 1, paths.resolve(RUN)) as profiler:
    profiler.reach(0, ())
    profiler.reach(1, ())
  names = bucket.names("runs/a/plugins/profile/steps_0-1/")
  assert any(name.endswith(".xplane.pb") for name in names)
  assert all(bucket.read(name) for name in names)


def test_arrays_and_labels(bucket, caplog):
  arrays = {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)}
  cache = array_cache.cache_dir(ROOT, "decoded", "name")
  assert array_cache.read_arrays(cache) is None
  array_cache.write_arrays(cache, arrays)
  np.testing.assert_array_equal(
    array_cache.read_arrays(cache)["image"], arrays["image"]
  )
  name = "sam_jax_cache/decoded/name/image.npy"
  bucket.write(name, bucket.read(name)[:-1])
  assert array_cache.read_arrays(cache) is None
  assert "damaged" in caplog.text

  labels = np.array([3, 1, 2])
  write_labels(f"{ROOT}/labels/a.npy", labels)
  read = read_labels(f"{ROOT}/labels/a.npy", 3, 4)
  np.testing.assert_array_equal(read, labels)


def no_permission(bucket, monkeypatch):
  bucket.fail(403)
  return "no permission: reader@example.com does not have"


def no_permission_to_write(bucket, monkeypatch):
  bucket.fail(403, method="POST")
  return "no permission: reader@example.com does not have"


def no_permission_that_orbax_needs(bucket, monkeypatch):
  bucket.fail(403, path=r"/b/bucket\?")
  return "Storage Legacy Bucket Reader on gs://bucket"


def expired_credentials(bucket, monkeypatch):
  bucket.fail(401)
  return "the credentials for gs://bucket are missing, expired or revoked"


def no_credentials(bucket, monkeypatch):
  monkeypatch.delenv("STORAGE_EMULATOR_HOST")
  monkeypatch.setenv("CLOUDSDK_CONFIG", "nothing")
  return "Log in with `gcloud auth application-default login`"


def revoked_credentials(bucket, monkeypatch):
  url = bucket.environment["STORAGE_EMULATOR_HOST"]
  key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
  account = {
    "type": "service_account",
    "client_email": "account@example.com",
    "token_uri": f"{url}/token",
    "private_key": key.private_bytes(
      serialization.Encoding.PEM,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    ).decode(),
  }
  with open("account.json", "w") as file:
    json.dump(account, file)
  monkeypatch.delenv("STORAGE_EMULATOR_HOST")
  monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "account.json")
  return "the credentials for gs://bucket are missing, expired or revoked"


def no_network(bucket, monkeypatch):
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
  return "gs://bucket does not answer: Connection refused"


def no_answer(bucket, monkeypatch):
  monkeypatch.setattr(buckets, "_ANSWER_SECONDS", 0.5)
  bucket.latency = 3.0
  return "gs://bucket does not answer: no answer within"


def broken_server(bucket, monkeypatch):
  bucket.fail(503)
  return "gs://bucket does not answer: We encountered an internal error"


@pytest.mark.parametrize(
  "fault",
  [
    no_permission,
    no_permission_to_write,
    no_permission_that_orbax_needs,
    expired_credentials,
    no_credentials,
    revoked_credentials,
    no_network,
    no_answer,
    broken_server,
  ],
)
def test_fault_is_one_line_within_seconds(fault, bucket, monkeypatch, capsys):
  monkeypatch.setattr(buckets, "_RETRY_SECONDS", 2.0)
  cause = fault(bucket, monkeypatch)
  start = time.monotonic()
  with pytest.raises(SystemExit) as end:
    run_script(
      *("train", "--config=configs/digits.py", f"--workdir={RUN}"),
      f"--config.compilation_cache_dir={CACHE}",
    )
  (line,) = capsys.readouterr().err.splitlines()
  assert end.value.code == 2
  assert line.startswith(f"error: --workdir={RUN}: ")
  assert cause in line
  assert time.monotonic() - start < 30
  assert not bucket.objects


@pytest.mark.parametrize(
  ("name", "access"),
  [
    ("--workdir", lambda path: run_workdir(path)),
    ("--root", lambda path: sweep.record_names(path, ["a"])),
    ("config.dataset.label_file", lambda path: read_labels(path, 1, 2)),
  ],
)
def test_missing_bucket_is_named(name, access, bucket):
  remedy = "gcloud storage buckets create gs://other"
  message = f"{name}=gs://other/a: there is no bucket gs://other.*{remedy}"
  with pytest.raises(ConfigError, match=message):
    access("gs://other/a")


def run_workdir(path):
  with workdir.claim(path, default_config()):
    pass


def test_bucket_that_fails_later_is_one_line(bucket):
  with (
    pytest.raises(workdir.WorkdirLostError, match="no permission") as error,
    workdir.claim(RUN, default_config()) as path,
  ):
    bucket.fail(403, method="POST", path="result")
    workdir.write_result(path, {"error_rate": 0.5})
  assert f"--workdir={RUN} can no longer be written" in str(error.value)
  assert "it resumes from the last checkpoint" in str(error.value)
