"""Eight virtual CPU devices for every test, set before jax starts."""

import os
import pathlib
import shutil
import signal

os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax is imported
# Keep every program that tests compile, between sessions too.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import numpy as np
import pytest

from sam_jax.runs import compilation
from tests import bucket as bucket_lib
from tests import garbage, kept, processes

os.environ["XLA_FLAGS"] = processes.xla_flags(8)  # read at the first use of it
jax.config.update("jax_compilation_cache_dir", str(processes.CACHE))

GOLDEN = pathlib.Path(__file__).parent / "golden"


def has_room(directory, size=2**31):
  """Return True if files in a directory can be large, and be executed."""
  if not os.access(directory, os.W_OK):
    return False
  stats = os.statvfs(directory)
  is_executable = not stats.f_flag & getattr(os, "ST_NOEXEC", 0)
  return is_executable and stats.f_bavail * stats.f_frsize >= size


# Keep the files of tests in memory: disks may take 5 ms to delete one, and a
# session makes 10,000.
if has_room("/dev/shm"):
  os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")


@pytest.fixture(scope="session", autouse=True)
def ignored_signals_reset_in_children():
  """Let signals that the caller ignores, as nohup does, reach child processes.

  A child inherits that a signal is ignored, but not that it is handled: it
  starts with the default action. This process goes on ignoring the signal.
  """
  numbers = [signal.SIGINT, signal.SIGHUP]
  ignored = [n for n in numbers if signal.getsignal(n) is signal.SIG_IGN]
  for number in ignored:
    signal.signal(number, lambda *_: None)
  yield
  for number in ignored:
    signal.signal(number, signal.SIG_IGN)


def pytest_collection_modifyitems(items):
  """Start with long tests: at the end one worker would wait for the other."""
  items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
  garbage.collect_rarely()


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
  """Free compiled programs after a file of tests when they have become many."""
  yield
  compilation.free_programs_if_many()


@pytest.fixture(scope="session")
def golden():
  """Load a file of reference numbers recorded from the official release."""
  return lambda name: np.load(GOLDEN / name, allow_pickle=False)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """Return a data directory that starts empty."""
  return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def bucket_server():
  """Serve gs://bucket: one address, because clients keep their connections."""
  with bucket_lib.serve() as server:
    yield server


@pytest.fixture
def bucket(bucket_server, tmp_path, monkeypatch):
  """Return an empty gs://bucket, for this process and for its children."""
  bucket_server.reset()
  for name, value in bucket_server.environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.chdir(tmp_path)
  yield bucket_server
  assert not list(tmp_path.glob("gs:*"))  # made from a path in the bucket


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
  """Return a data directory with the digits, which a run would prepare.

  That takes TensorFlow and seconds: copy what an earlier session kept.
  """
  directory = tmp_path_factory.mktemp("digits") / "tfds"
  shutil.copytree(kept.digits(), directory)
  return directory


@pytest.fixture
def start(tmp_path, digits_dir):
  """Start training processes in the test's own directory."""
  started = []

  def start_process(*flags, workdir="run", devices=1):
    process = processes.start_training(
      tmp_path / workdir, digits_dir, *flags, devices=devices
    )
    started.append(process)
    return process

  yield start_process
  for process in started:
    process.kill()
    process.communicate()
