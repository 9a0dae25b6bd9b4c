"""From the command to the first step, with and without compiled programs."""

import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from sam_jax.benchmarks.timing import spread


class TrainingFailedError(Exception):
  """The measured command ended before its first step."""


def measure_startup(arguments: list[str], rounds: int) -> list[dict[str, Any]]:
  """Launches training with an empty cache, and again with what that left.

  Args:
    arguments: Of `python -m sam_jax.train`, without --workdir.
    rounds: How often to do both.

  Returns:
    A row of each: seconds from launch to the end of the first step.

  Raises:
    TrainingFailedError: There was no first step.
  """
  seconds = {"cold": [], "warm": []}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as directory:
      for values in seconds.values():
        values.append(_time_first_step(arguments, pathlib.Path(directory)))
  return [
    {"start": name, "seconds to first step": spread(values)}
    for name, values in seconds.items()
  ]


def _time_first_step(arguments: list[str], directory: pathlib.Path) -> float:
  with tempfile.TemporaryDirectory() as workdir:
    started = time.perf_counter()
    process = subprocess.Popen(
      [
        *(sys.executable, "-m", "sam_jax.train", *arguments),
        f"--workdir={workdir}",
        f"--config.compilation_cache_dir={directory / 'compiled'}",
        "--config.log_every_steps=1",
      ],
      stderr=subprocess.PIPE,
      text=True,
    )
    line = ""
    for line in process.stderr:
      if "  train  loss" in line:
        break
    seconds = time.perf_counter() - started
    process.kill()
    process.communicate()
  if "  train  loss" not in line:
    raise TrainingFailedError(f"No first step; training said: {line.strip()}")
  return seconds
