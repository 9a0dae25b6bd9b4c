"""Communication of a step against the number of devices."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from sam_jax.training.step import Recipe
from scripts.benchmark import peers, programs
from scripts.benchmark.steps import RHO
from scripts.benchmark.workload import Workload


def measure_scaling(
  workload: Workload, counts: Iterable[int]
) -> list[dict[str, Any]]:
  """Compiles steps for several numbers of devices; reads what they communicate.

  Args:
    workload: What to train; its batch is that of each device.
    counts: Numbers of devices.

  Returns:
    A row of each step and number of devices. XLA's combiner makes fewer
    collectives of those that were traced, on CPU a single one. Volume is what
    a device puts into them in a step, in copies of the parameters; FLOPs and
    temporary memory are of a device.

  Raises:
    ConfigError: The workload names something unknown.
  """
  rows = []
  for count in counts:
    part = dataclasses.replace(workload, devices=count)
    sam = part.recipe(RHO)
    recipes = {
      "SGD": part.recipe(0.0),
      "SAM, m of a device": sam,
      "optax opaque, m of a device": peers.with_optax_opaque(sam, RHO),
      "SAM, m of all devices": part.recipe(RHO, part.batch * count),
    }
    for name, recipe in recipes.items():
      rows.append({"step": name, "devices": count, **_measure(part, recipe)})
  return rows


def _measure(workload: Workload, recipe: Recipe) -> dict[str, float]:
  state = workload.state_shapes(recipe)
  lowered = workload.lower_step(recipe, state)
  compiled = lowered.compile()
  copy = programs.size_in_bytes(state.params)
  communication = programs.collectives(compiled)
  return {
    "collectives traced": programs.collectives_traced(lowered),
    "combined": communication.count,
    "volume": communication.bytes / copy,
    "GFLOP": programs.flops(compiled) / 1e9,
    "temporary copies": programs.temporary_bytes(compiled) / copy,
  }
