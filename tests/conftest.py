"""Eight virtual CPU devices for every test, set before jax starts."""

import gc
import os
import pathlib

from tests import processes

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=8 " + processes.QUICK_COMPILATION
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import numpy as np
import pytest

# Tests compile the same programs again and again: keep them between runs.
jax.config.update(
  "jax_compilation_cache_dir",
  os.environ.get(
    "SAM_JAX_TEST_CACHE", str(pathlib.Path.home() / ".cache/sam_jax/tests")
  ),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module", autouse=True)
def programs_of_this_file_only():
  """Frees the compiled programs of a file of tests when it ends.

  Each holds dozens of memory mappings, and a process that reaches the kernel's
  limit (65,530 by default) dies of a segmentation fault.
  """
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope="session")
def golden():
  """Loads a file of reference numbers recorded from the official release."""
  return lambda name: np.load(GOLDEN / name, allow_pickle=False)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A data directory that starts empty."""
  return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def start(tmp_path, data_dir):
  """Starts training processes in the test's own directory."""
  started = []

  def start_process(*flags, workdir="run", devices=1):
    process = processes.start_training(
      tmp_path / workdir, data_dir, *flags, devices=devices
    )
    started.append(process)
    return process

  yield start_process
  for process in started:
    process.kill()
    process.communicate()
