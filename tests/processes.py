"""Training processes for tests: to start, watch, and wait for."""

import json
import os
import pathlib
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).parent.parent

# Tests compile much and compute little: optimised code does not pay.
QUICK_COMPILATION = (
  "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)


# `python -m sam_jax.train`, except that a lost process is noticed sooner.
TRAIN = """
import runpy, sys
from sam_jax.runs import distributed
distributed._HEARTBEAT_SECONDS = 8
sys.argv[0] = "train"
runpy.run_module("sam_jax.train", run_name="__main__", alter_sys=True)
"""


def start_training(workdir, data_dir, *flags, devices=1):
  """Starts `sam_jax.train` on virtual CPU devices."""
  device_flag = f"--xla_force_host_platform_device_count={devices}"
  cache = os.environ.get("SAM_JAX_TEST_CACHE", "~/.cache/sam_jax/tests")
  return subprocess.Popen(
    [
      *(sys.executable, "-c", TRAIN),
      *(f"--workdir={workdir}", *flags),
      f"--config.dataset.data_dir={data_dir}",
      f"--config.compilation_cache_dir={cache}",
    ],
    cwd=REPOSITORY,
    env=os.environ | {"XLA_FLAGS": f"{device_flag} {QUICK_COMPILATION}"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  """Waits for a process; returns its exit code and what it said."""
  _, stderr = process.communicate(timeout=300)
  return process.returncode, stderr


def wait_for_step(workdir, step):
  """Waits until metrics.jsonl has a line of at least that step."""
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline:
    if any(line["step"] >= step for line in read_metrics(workdir)):
      return
    time.sleep(0.01)
  raise TimeoutError(f"step {step} did not come")


def read_metrics(workdir):
  """The lines of metrics.jsonl that are whole, without timings."""
  file = workdir / "metrics.jsonl"
  text = file.read_text() if file.exists() else ""
  lines = [json.loads(line) for line in text.splitlines() if line[-1:] == "}"]
  for line in lines:
    line.pop("train/images_per_second", None)
  return lines
