"""Say how a measurement was made: command, date, machine, versions."""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import sam_jax
from sam_jax import wording

# The last ones, which benchmarks compare with, may not be installed.
_PACKAGES = (
  *("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-cpu"),
  *("tensorflow", "torch", "grain", "opencv-python-headless", "PyTurboJPEG"),
)


def describe(command: Sequence[str]) -> dict[str, Any]:
  """Return what a file of measurements says of their origin.

  Args:
    command: The words of the command that measured.
  """
  versions = {}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return {
    "command": shlex.join(command),
    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    "cpu": _cpu_name(),
    "cores": len(os.sched_getaffinity(0)),
    "load": round(os.getloadavg()[0], 1),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    "versions": {
      "python": platform.python_version(),
      "sam_jax": sam_jax.__version__,
      **versions,
    },
  }


def show(made: Mapping[str, Any]) -> str:
  """Return date, machine and version of JAX as a part of a sentence."""
  machine = wording.count(made["cores"], "core")
  machine += f" of an {made['cpu']}" if "cpu" in made else ""
  load = f" at load {made['load']}" if "load" in made else ""
  return f"{made['date']}, {machine}{load}, jax {made['versions']['jax']}"


def _cpu_name() -> str:
  """Return the name of the processor, without those of its clock."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
  except OSError:
    text = ""
  match = re.search(r"^model name\s*: (.*?)(?: @.*)?$", text, re.MULTILINE)
  return match[1] if match else platform.machine()
