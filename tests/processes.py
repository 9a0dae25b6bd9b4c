"""Training processes for tests: start, watch, and wait for them."""

import functools
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import time

from sam_jax.runs import compilation
from tests import process_server

REPOSITORY = pathlib.Path(__file__).parent.parent
CACHE = pathlib.Path(
  os.environ.get("SAM_JAX_TEST_CACHE", "~/.cache/sam_jax/tests")
).expanduser()

# Tests compile much and compute little: optimized code does not pay, nor does
# the division of small programs among threads.
QUICK_COMPILATION = (
  "--xla_backend_optimization_level=0",
  "--xla_cpu_parallel_codegen_split_count=1",
  "--xla_cpu_use_fusion_emitters=false",
  compilation.FLAG_FOR_CPUS,
)

# Initializing a backend makes XLA parse $XLA_FLAGS.
INITIALIZE = "import jax; jax.devices()"


def xla_flags(num_devices: int) -> str:
  """Return $XLA_FLAGS for virtual CPU devices and quick compilation.

  Commands would add the last flag themselves. All processes of the tests have
  the same flags: they share compiled programs.
  """
  count = f"--xla_force_host_platform_device_count={num_devices}"
  return " ".join([count, *known_flags(QUICK_COMPILATION)])


@functools.cache
def known_flags(flags: tuple[str, ...]) -> list[str]:
  """Return the flags that the installed jaxlib knows.

  XLA aborts a process whose $XLA_FLAGS holds a flag that it does not know, and
  flags come and go with versions of jaxlib. Try them in a process of their own,
  once for each version: a file in `CACHE` keeps the answer.
  """
  version = importlib.metadata.version("jaxlib")
  file = CACHE / f"xla_flags_of_jaxlib_{version}.json"
  known = json.loads(file.read_text()) if file.exists() else {}
  untried = [flag for flag in flags if flag not in known]
  if untried:
    unknown = unknown_flags(untried)
    known |= {flag: flag not in unknown for flag in untried}
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(known))
    partial.replace(file)  # atomic: other processes may read it now
  return [flag for flag in flags if known[flag]]


def unknown_flags(flags: list[str]) -> set[str]:
  """Return the flags that XLA does not accept."""
  process = subprocess.run(
    [sys.executable, "-c", INITIALIZE],
    env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)},
    capture_output=True,
    text=True,
  )
  if process.returncode == 0:
    return set()
  refused = re.search("Unknown flags? in XLA_FLAGS: (.*)", process.stderr)
  if not refused:
    raise RuntimeError(f"can't try XLA_FLAGS={flags}: {process.stderr}")
  return set(refused[1].split())


@functools.cache
def training_server():
  """Return the server of this process; the first call starts it."""
  return process_server.Server()


def start_training(workdir, data_dir, *flags, devices=1):
  """Start `sam_jax.train` on virtual CPU devices."""
  return training_server().start(
    [
      *(f"--workdir={workdir}", *flags),
      f"--config.dataset.data_dir={data_dir}",
      f"--config.compilation_cache_dir={CACHE}",
    ],
    os.environ | {"XLA_FLAGS": xla_flags(devices)},
  )


def finish(process):
  """Wait for a process; return its exit code and its stderr."""
  _, stderr = process.communicate(timeout=300)
  return process.returncode, stderr


def wait_for_step(workdir, step):
  """Wait until metrics.jsonl has a line of at least that step."""
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline:
    if any(line["step"] >= step for line in read_metrics(workdir)):
      return
    time.sleep(0.01)
  raise TimeoutError(f"step {step} did not come")


def read_metrics(workdir):
  """Return the complete lines of metrics.jsonl, without timings."""
  file = workdir / "metrics.jsonl"
  text = file.read_text() if file.exists() else ""
  lines = [json.loads(line) for line in text.splitlines() if line[-1:] == "}"]
  for line in lines:
    line.pop("train/images_per_second", None)
  return lines
