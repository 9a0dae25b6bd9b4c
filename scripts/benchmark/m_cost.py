"""What m-sharpness costs: the SAM step against m."""

from typing import Any

from scripts.benchmark import programs
from scripts.benchmark.steps import RHO, compile_cold
from scripts.benchmark.timing import interleave, ratio, spread
from scripts.benchmark.workload import Workload


def measure_m(
  workload: Workload, ms: list[int], rounds: int
) -> list[dict[str, Any]]:
  """Times SAM steps whose perturbations are of m examples each.

  Args:
    workload: What to train.
    ms: Values of m; the first one is what the others are compared with.
    rounds: How often to time each.

  Returns:
    A row for each m. Memory is in copies of the parameters.

  Raises:
    ConfigError: An m does not divide the batch of a device.
  """
  recipes = {m: workload.recipe(RHO, m) for m in ms}
  steps = {m: compile_cold(workload, r) for m, r in recipes.items()}
  copy = programs.size_in_bytes(steps[ms[0]].state.params)
  seconds = interleave(steps, rounds)
  return [
    {
      "m": m,
      "parts of a device's batch": recipes[m].micro_shards,
      "milliseconds": spread([1000 * s for s in seconds[m]]),
      f"over m = {ms[0]}": ratio(seconds[m], seconds[ms[0]]),
      "temporary copies": programs.temporary_bytes(step.compiled) / copy,
      "compile s": step.compile_seconds,
    }
    for m, step in steps.items()
  ]
