"""What compiling a training step takes, of networks too large to run here."""

import time
from typing import Any

from scripts.benchmark import programs
from scripts.benchmark.caches import cache_at
from scripts.benchmark.steps import RHO
from scripts.benchmark.workload import Workload


def measure_compilation(workload: Workload) -> list[dict[str, Any]]:
  """Compiles the steps of SGD and SAM, without a cache.

  Returns:
    A row of each: seconds to trace and to compile, FLOPs of a device, and
    temporary memory in copies of the parameters.

  Raises:
    ConfigError: The workload names something unknown.
  """
  rows = []
  for name, rho in {"SGD": 0.0, "SAM": RHO}.items():
    recipe = workload.recipe(rho)
    state = workload.state_shapes(recipe)
    with cache_at(None):
      started = time.perf_counter()
      lowered = workload.lower_step(recipe, state)
      traced = time.perf_counter()
      compiled = lowered.compile()
      ended = time.perf_counter()
    copy = programs.size_in_bytes(state.params)
    rows.append(
      {
        "step": name,
        "trace s": traced - started,
        "compile s": ended - traced,
        "GFLOP": programs.flops(compiled) / 1e9,
        "temporary copies": programs.temporary_bytes(compiled) / copy,
      }
    )
  return rows
