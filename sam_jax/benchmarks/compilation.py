"""What compiling a training step takes, of networks too large to run here."""

import time
from typing import Any

import jax

from sam_jax.benchmarks import programs
from sam_jax.benchmarks.steps import RHO
from sam_jax.benchmarks.workload import Workload, lower_step


def measure_compilation(workload: Workload) -> list[dict[str, Any]]:
  """Compiles the steps of SGD and SAM for all devices, without a cache.

  Returns:
    A row of each: seconds to trace and to compile, FLOPs of a device, and
    temporary memory in copies of the parameters.

  Raises:
    ConfigError: The workload names something unknown.
  """
  jax.config.update("jax_enable_compilation_cache", False)
  num_devices = jax.local_device_count()
  rows = []
  for name, rho in {"SGD": 0.0, "SAM": RHO}.items():
    recipe = workload.recipe(num_devices, rho)
    state = jax.eval_shape(lambda r=recipe: workload.create_state(r))
    batch = workload.random_batch(num_devices)
    started = time.perf_counter()
    lowered = lower_step(recipe, state, batch, num_devices)
    traced = time.perf_counter()
    compiled = lowered.compile()
    copy = programs.size_in_bytes(state.params)
    rows.append(
      {
        "step": name,
        "trace s": traced - started,
        "compile s": time.perf_counter() - traced,
        "GFLOP": programs.flops(compiled) / 1e9,
        "temporary copies": programs.temporary_bytes(compiled) / copy,
      }
    )
  return rows
