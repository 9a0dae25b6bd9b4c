"""Measure the cost of a Hessian-vector product in gradients."""

import functools
import time
from typing import Any

import jax
import numpy as np

from sam_jax.analysis.objective import Objective, network_losses
from sam_jax.training import build
from scripts.benchmark import program_costs
from scripts.benchmark.timing import interleave, ratio, spread
from scripts.benchmark.training_task import TrainingTask


def measure_hessian_product(
  task: TrainingTask, rounds: int
) -> list[dict[str, Any]]:
  """Compare a product with a gradient of the same mean loss.

  Args:
    task: The network, and the examples of a pass on each device.
    rounds: Number of times to measure each.

  Returns:
    A row of seconds, and of their ratio. On a CPU they are seconds of the
    processor, added up over its cores. Memory is that of the arguments and the
    temporary buffers of a device, in copies of the parameters.
  """
  parts, spec = task.parts(0.0), build.dataset_spec(task.config(0.0))
  state = task.create_state(parts)
  generator = np.random.default_rng(0)
  count = task.batch * task.devices
  examples: dict[str, np.ndarray] = {
    "image": generator.integers(
      256, size=(count, *spec.image_shape), dtype=np.uint8
    ),
    "label": generator.integers(spec.num_classes, size=count, dtype=np.int32),
  }
  losses = network_losses(parts.model, build.preprocess_fn(spec))

  def example_losses(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    variables = {"params": params, "batch_stats": state.batch_stats}
    return losses(variables, batch)

  devices = jax.local_devices()[: task.devices]
  objective = Objective(example_losses, examples, count, devices)
  params = objective.put(state.params)
  seconds = interleave(
    {
      "gradient": functools.partial(objective.value_and_grad, params),
      "product": functools.partial(objective.hessian_product, params, params),
    },
    rounds,
    time.process_time if jax.default_backend() == "cpu" else None,
  )
  copies = {
    name: _memory(objective.program(name, params), state.params)
    for name in ("gradient", "hessian_product")
  }
  return [
    {
      "gradient s": spread(seconds["gradient"]),
      "product s": spread(seconds["product"]),
      "product over gradient": ratio(seconds["product"], seconds["gradient"]),
      "gradient copies": copies["gradient"],
      "product copies": copies["hessian_product"],
    }
  ]


def _memory(program: jax.stages.Compiled, params: Any) -> float:
  """Return what a program needs in memory, in copies of the parameters."""
  analysis: Any = program.memory_analysis()
  needed = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
  return needed / program_costs.size_in_bytes(params)
