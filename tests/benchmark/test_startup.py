"""Time from launch to the first step."""

import math
import sys

import pytest

from sam_jax.config.schema import ConfigError, default_config
from scripts.benchmark import startup

# Moves the clock in a file: by 30 seconds without compiled programs, else by 1.
FAKE_TRAINING = """
import pathlib, runpy, sys
clock, *flags = sys.argv[1:]
config, workdir = (flag.split("=", 1)[1] for flag in flags)
config = runpy.run_path(config)["get_config"]()
assert config.sam.m is None and config.sam.p == float("inf")
cache = pathlib.Path(config.compilation_cache_dir)
seconds = 1.0 if cache.exists() else 30.0
cache.mkdir(exist_ok=True)
clock = pathlib.Path(clock)
clock.write_text(str(float(clock.read_text()) + seconds))
if config.seed == 2:
  print("error: no such field", file=sys.stderr)
  sys.exit(2)
print("step 1/8  train  loss" if config.seed else "no data", file=sys.stderr)
"""


def test_startup_is_warm_the_second_time(tmp_path, monkeypatch):
  clock = tmp_path / "clock"
  clock.write_text("0.0")

  class FileTime:
    @staticmethod
    def perf_counter():
      return float(clock.read_text())

  monkeypatch.setattr(startup, "time", FileTime)
  config = default_config()
  config.sam.p, config.seed = math.inf, 1
  program = (sys.executable, "-c", FAKE_TRAINING, str(clock))
  cold, warm = startup.measure_startup(config, 2, program)
  seconds = "seconds to first step"
  assert cold == {"start": "cold", seconds: (30.0, 30.0, 30.0)}
  assert warm == {"start": "warm", seconds: (1.0, 1.0, 1.0)}
  config.seed = 2
  with pytest.raises(ConfigError, match=r"^no such field$"):
    startup.measure_startup(config, 1, program)
  config.seed = 0
  with pytest.raises(startup.TrainingFailedError, match="no data"):
    startup.measure_startup(config, 1, program)
