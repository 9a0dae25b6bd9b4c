"""The lock of a workdir in a bucket: one owner, and none that was killed."""

import os
import socket
import threading

import pytest

from sam_jax import paths
from sam_jax.config.schema import ConfigError
from sam_jax.runs import lease
from tests.bucket import ROOT

NAME = "run/.lock"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  for name, seconds in (("_REFRESH", 0.1), ("_LOOK", 0.05), ("_EXPIRY", 1.0)):
    monkeypatch.setattr(lease, name, seconds)


@pytest.fixture
def directory(bucket):
  return paths.resolve(f"{ROOT}/run")


def lock_of(process, host):
  return f"process {process} on {host} (1a2b3c4d)".encode()


def test_second_process_is_refused(directory, bucket):
  owner = f"process {os.getpid()} on {socket.gethostname()}"
  # This process has the number of the first one, which must not matter.
  with lease.hold(directory), pytest.MonkeyPatch.context() as patch:
    patch.setattr(lease, "_has_ended", lambda owner: False)
    with (
      pytest.raises(ConfigError, match=f"{ROOT}/run is in use by {owner}"),
      lease.hold(directory),
    ):
      pass
  assert not bucket.names()
  with lease.hold(directory):
    assert bucket.names() == [NAME]


@pytest.mark.parametrize("host", [None, "another_host"])
def test_killed_owner_is_followed(directory, bucket, host):
  """At once on its own host, and after it was silent elsewhere."""
  dead = 2**22 + 1  # above the highest number of a process
  lock = lock_of(dead, host or socket.gethostname())
  bucket.write(NAME, lock)
  if host is None:
    lease._EXPIRY = 60.0  # restored by `quick`
  with lease.hold(directory):
    assert bucket.read(NAME) != lock


def test_owner_that_lost_the_lock_ends(directory, bucket, monkeypatch):
  has_left = threading.Event()
  monkeypatch.setattr(lease, "_leave", lambda path: has_left.set())
  with lease.hold(directory):
    bucket.write(NAME, lock_of(1, "another_host"))
    assert has_left.wait(10)
  assert bucket.read(NAME) == lock_of(1, "another_host")  # not deleted


def test_hiccups_do_not_lose_the_lock(directory, bucket, monkeypatch):
  monkeypatch.setattr(lease, "_leave", lambda path: pytest.fail("lost"))
  with lease.hold(directory):
    bucket.fail(503, method="POST", times=2)
    generation = bucket.objects[NAME].generation
    deadline = threading.Event()
    while bucket.objects[NAME].generation == generation:
      assert not deadline.wait(0.05)
  assert not bucket.names()
