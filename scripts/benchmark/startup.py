"""Time from launch to the first step, with and without compiled programs."""

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.schema import ConfigError
from scripts.benchmark.timing import spread

TRAIN = (sys.executable, "-m", "sam_jax.train")
# A literal: the child trains this config regardless of how it was built.
_CONFIG_FILE = """
from math import inf, nan

from ml_collections import ConfigDict


def get_config():
  return ConfigDict({!r})
"""


class TrainingFailedError(Exception):
  """The measured command ended before its first step."""


def measure_startup(
  config: ConfigDict, rounds: int, program: Sequence[str] = TRAIN
) -> list[dict[str, Any]]:
  """Launch training with an empty cache, and again with the cache it left.

  Args:
    config: The config of the run.
    rounds: Number of times to do both.
    program: Command that takes --config and --workdir, and logs on stderr.

  Returns:
    A row of each: seconds from launch to the end of the first step.

  Raises:
    ConfigError: The command refused the config.
    TrainingFailedError: It ended without a first step.
  """
  seconds: dict[str, list[float]] = {"cold": [], "warm": []}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as name:
      directory = pathlib.Path(name)
      file = _write_config(config, directory)
      for values in seconds.values():
        values.append(_time_first_step([*program, f"--config={file}"]))
  return [
    {"start": name, "seconds to first step": spread(values)}
    for name, values in seconds.items()
  ]


def _write_config(config: ConfigDict, directory: pathlib.Path) -> pathlib.Path:
  """Write a config file whose runs log every step and share a cache."""
  config = config.copy_and_resolve_references()
  config.compilation_cache_dir = str(directory / "compiled")
  config.log_every_steps = 1
  file = directory / "config.py"
  file.write_text(_CONFIG_FILE.format(config.to_dict()))
  return file


def _time_first_step(command: list[str]) -> float:
  with tempfile.TemporaryDirectory() as workdir:
    started = time.perf_counter()
    process = subprocess.Popen(
      [*command, f"--workdir={workdir}"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
      line = ""
      for line in process.stderr:
        if "  train  loss" in line:
          break
      else:
        process.wait()
      seconds = time.perf_counter() - started
    finally:
      process.kill()
      process.communicate()
  if process.returncode == 2:
    raise ConfigError(line.strip().removeprefix("error: "))
  if "  train  loss" not in line:
    raise TrainingFailedError(
      f"Training ended without a first step. Its last line: {line.strip()}"
    )
  return seconds
