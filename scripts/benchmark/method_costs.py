"""The cost of a step of each method over one of SGD, in real training."""

import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sam_jax.training import build, hyperparameters, input_pipeline, parallel
from sam_jax.training.step import create_state, train_step
from scripts.benchmark import program_costs
from scripts.benchmark.timing import interleave, ratio, spread

_STEPS = 60  # of a timed run: a multiple of each `every`


class _ShortRun:
  """A run of a few steps on batches that are on the devices already.

  All steps are one program: the time to start a program, which is that of many
  steps of a small network, does not count.

  Attributes:
    flops: FLOPs of a step that takes all the gradients of its program.
    bytes: Memory of the run: state and temporary arrays.
    perturbed: Fraction of the steps that perturbed the parameters.
  """

  def __init__(self, config: ConfigDict):
    """Compile the steps of a config."""
    count = jax.device_count()
    config = config.copy_and_resolve_references()
    config.num_epochs, config.log_every_steps = 1, 1
    config = build.validate(config, count)
    dataset = input_pipeline.create_dataset(config)
    batches = [
      parallel.fetch(batch)
      for _, batch in input_pipeline.train_batches(config, dataset, 0, _STEPS)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, 1), *batches)
    stacked = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)

    def run(state, batches, numbers):
      traced = hyperparameters.insert(config, numbers)
      parts = build.parts(traced, dataset.spec, _STEPS, count)
      return jax.lax.scan(
        lambda state, batch: train_step(state, batch, parts), state, batches
      )

    parts = build.parts(config, dataset.spec, _STEPS, count)
    start = create_state(parts, dataset.spec.image_shape, config.seed)
    self._arguments = (
      parallel.replicate(start),
      parallel.shard(stacked),
      parallel.replicate(hyperparameters.extract(config)),
    )
    program = parallel.map_over_devices(
      run, in_axes=(None, 0, None), out_axes=(None, None)
    )
    self._run = program.lower(*self._arguments).compile()
    self.flops = program_costs.flops(self._run)  # a loop's body counts once
    self.bytes = program_costs.temporary_bytes(self._run)
    self.bytes += program_costs.size_in_bytes(start)
    norms = np.nan_to_num(self()["perturbation_norm"])
    self.perturbed = float(np.mean(norms > 0))

  def __call__(self) -> Any:
    """Take all steps, and return their metrics, to wait for."""
    return self._run(*self._arguments)[1]


def measure_costs(
  configs: dict[str, ConfigDict], rounds: int
) -> dict[str, dict[str, Any]]:
  """Time short runs of all methods in turn.

  Args:
    configs: Configs by the name of the method; one is "sgd".
    rounds: Number of times to measure each.

  Returns:
    By name: `time` of the processor over SGD's, a spread; `flops` and `memory`
    over SGD's; and `perturbed`, the fraction of the steps that perturb. The
    FLOPs of plain steps count as those of SGD.
  """
  runs = {name: _ShortRun(config) for name, config in configs.items()}
  seconds = interleave(runs, rounds, clock=time.process_time)
  sgd = runs["sgd"]
  costs = {}
  for name, run in runs.items():
    full = run.flops / sgd.flops
    # A method with one gradient perturbs without a second one.
    share = run.perturbed if full > 1.1 else 1.0
    costs[name] = {
      "time": ratio(seconds[name], seconds["sgd"]),
      "flops": 1 + share * (full - 1),
      "memory": run.bytes / sgd.bytes,
      "perturbed": run.perturbed,
      "milliseconds": spread([1000 * s / _STEPS for s in seconds[name]]).median,
    }
  return costs
