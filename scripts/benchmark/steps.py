"""Time training steps: SAM against SGD, `optax.contrib.sam`, and other m."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts, train_step
from scripts.benchmark import optax_sam, program_costs
from scripts.benchmark.compilation import cache_at
from scripts.benchmark.timing import interleave, ratio, spread
from scripts.benchmark.training_task import RHO, TrainingTask

# Largest difference between updates of the same numerics, relative to their
# length, unless rounding decides more. In float32 on a CPU up to 3e-6 was seen
# where rounding moves no value across the kink of a ReLU; other products round
# more.
_TOLERANCE, _TOLERANCE_OF_ROUGH_PRODUCTS = 1e-4, 0.02


class Alternative(NamedTuple):
  """A training step to compare.

  Attributes:
    parts: Its parts.
    calls: Calls that make up one step of SAM.
    train_step: (state, batch, parts) -> (state, metrics).
  """

  parts: Parts
  calls: int = 1
  train_step: Callable[..., Any] = train_step


class DifferentResultsError(Exception):
  """Two sides of a comparison do not compute the same."""


@dataclasses.dataclass
class CompiledStep:
  """A compiled step with its state and batch; a call takes one SAM step.

  Attributes:
    compiled: (state, batch) -> (state, metrics).
    state: The state, replaced by every call.
    batch: The batch of every call.
    compile_seconds: Time to trace and compile without a cache.
    cached_seconds: The same with the program in the cache.
    calls: Calls of `compiled` that make up a SAM step.
  """

  compiled: Any
  state: Any
  batch: Any
  compile_seconds: float
  cached_seconds: float = math.nan
  calls: int = 1

  def __call__(self) -> Any:
    """Take a step, and return the metrics to wait for."""
    for _ in range(self.calls):
      self.state, metrics = self.compiled(self.state, self.batch)
    return metrics


def measure_steps(task: TrainingTask, rounds: int) -> list[dict[str, Any]]:
  """Compare steps of SGD, SAM and `optax.contrib.sam`.

  Args:
    task: The task.
    rounds: Number of times to measure each.

  Returns:
    A row of measurements of each. Images and FLOPs are those of all devices
    together. Memory is that of the compiled program on one device, in copies
    of the parameters: temporary buffers, and the state. `numerics` compares
    the first update with SAM's, up to rounding.

  Raises:
    ConfigError: The task names something unknown.
    DifferentResultsError: SAM and optax's opaque mode take different steps.
  """
  sam = task.parts(RHO)
  alternatives = {
    "SGD": Alternative(task.parts(0.0)),
    "SAM": Alternative(sam),
    "optax opaque": Alternative(optax_sam.with_optax_opaque(sam, RHO)),
    "optax transparent": Alternative(
      optax_sam.with_optax_transparent(sam, RHO), calls=2
    ),
    "bare optax": Alternative(
      optax_sam.for_bare_step(sam, RHO), train_step=optax_sam.bare_step
    ),
  }
  steps = {
    name: _compile_twice(task, alternative)
    for name, alternative in alternatives.items()
  }
  numerics = compare_updates(steps, tolerance(task.dtype))
  products = program_costs.matrix_products(task.dtype)
  functions: dict[str, Callable[[], Any]] = {**steps, **products}
  seconds = interleave(functions, rounds)
  peak = program_costs.peak(products, seconds)
  copy = program_costs.size_in_bytes(steps["SGD"].state.params)
  return [
    {
      "step": name,
      "milliseconds": spread([1000 * s for s in seconds[name]]),
      "over SGD": ratio(seconds[name], seconds["SGD"]),
      **_throughput(task, step, spread(seconds[name]).median, peak),
      **_memory(step, steps["SGD"], copy),
      "compile s": step.compile_seconds,
      "cached s": step.cached_seconds,
      **numerics[name],
    }
    for name, step in steps.items()
  ]


def measure_m(
  task: TrainingTask, ms: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
  """Time SAM steps whose perturbations are shared by m examples each.

  Args:
    task: The task.
    ms: Values of m; the others are compared with the first one.
    rounds: Number of times to measure each.

  Returns:
    A row for each m. Memory is in copies of the parameters.

  Raises:
    ConfigError: An m does not divide the batch of a device.
  """
  parts = {m: task.parts(RHO, m) for m in ms}
  steps = {m: compile_cold(task, Alternative(p)) for m, p in parts.items()}
  copy = program_costs.size_in_bytes(steps[ms[0]].state.params)
  seconds = interleave(steps, rounds)
  return [
    {
      "m": m,
      "microbatches": parts[m].num_microbatches,
      "milliseconds": spread([1000 * s for s in seconds[m]]),
      f"over m = {ms[0]}": ratio(seconds[m], seconds[ms[0]]),
      "temporary copies": program_costs.temporary_bytes(step.compiled) / copy,
      "compile s": step.compile_seconds,
    }
    for m, step in steps.items()
  ]


def tolerance(dtype: str) -> float:
  """Return the largest difference from SAM's update, relative to its length."""
  is_exact = dtype == "float32" and jax.default_backend() == "cpu"
  return _TOLERANCE if is_exact else _TOLERANCE_OF_ROUGH_PRODUCTS


def compile_cold(task: TrainingTask, alternative: Alternative) -> CompiledStep:
  """Compile a step without a cache, and create its state and batch."""
  state = task.create_state(alternative.parts)
  with cache_at(None):
    compiled, seconds = _compile(task, alternative, state)
  batch = task.create_batch()
  return CompiledStep(compiled, state, batch, seconds, calls=alternative.calls)


def _compile_twice(
  task: TrainingTask, alternative: Alternative
) -> CompiledStep:
  """Compile with an empty cache, and again with the cache that this left."""
  state = task.create_state(alternative.parts)
  with tempfile.TemporaryDirectory() as directory, cache_at(directory):
    _, cold = _compile(task, alternative, state)
    jax.clear_caches()
    compiled, cached = _compile(task, alternative, state)
  batch = task.create_batch()
  return CompiledStep(compiled, state, batch, cold, cached, alternative.calls)


def _compile(
  task: TrainingTask, alternative: Alternative, state: TrainState
) -> tuple[Any, float]:
  """Return the program, and the seconds to trace and compile it."""
  parts, calls, train_step = alternative
  started = time.perf_counter()
  compiled = task.lower_step(parts, state, calls, train_step).compile()
  return compiled, time.perf_counter() - started


def compare_updates(
  steps: Mapping[str, CompiledStep], tolerance: float
) -> dict[str, dict[str, Any]]:
  """Take a step with each, and compare its update with SAM's.

  Args:
    steps: Steps by name, with "SGD", "SAM" and "optax opaque".
    tolerance: Largest difference of the same numerics, if a change of all
      weights by a unit in the last place makes no larger one.

  Returns:
    By name, the difference relative to the update's length and a verdict, both
    None for SGD; those of SAM are of that change of the weights.

  Raises:
    DifferentResultsError: SAM and optax's opaque mode take different steps.
  """
  sam = steps["SAM"]
  start = jax.device_get(sam.state)
  placement = jax.tree.map(lambda x: x.sharding, sam.state)
  after = {}
  for name, step in steps.items():
    step()
    after[name] = jax.device_get(step.state.params)
  sam.state = jax.device_put(_with_other_last_bits(start), placement)
  sam()
  compared = {
    **{name: after[name] for name in steps if name not in ("SGD", "SAM")},
    "SAM": jax.device_get(sam.state.params),
  }
  differences = {
    name: optax_sam.update_difference(params, after["SAM"], start.params)
    for name, params in compared.items()
  }
  tolerance = max(tolerance, differences["SAM"])
  # Negated: a difference that is nan is an error too.
  if not differences["optax opaque"] <= tolerance:
    raise DifferentResultsError(
      "SAM's first update and that of optax.contrib.sam (opaque) differ by"
      f" {differences['optax opaque']:.1e} of its length."
    )
  return {
    name: {
      "update differs by": differences.get(name),
      "numerics": _verdict(differences.get(name), tolerance),
    }
    for name in steps
  }


def _with_other_last_bits(state: TrainState) -> TrainState:
  """Return a state whose weights are the next numbers, up or down at random."""
  random = np.random.default_rng(0)

  def next_numbers(weights):
    is_up = random.random(weights.shape) < 0.5
    return np.nextafter(
      weights, np.where(is_up, np.inf, -np.inf), dtype=weights.dtype
    )

  return state.replace(params=jax.tree.map(next_numbers, state.params))


def _verdict(difference: float | None, tolerance: float) -> str | None:
  if difference is None:
    return None
  return "same" if difference <= tolerance else "different"


def _throughput(
  task: TrainingTask, step: CompiledStep, seconds: float, peak: float
) -> dict[str, float]:
  """Return images and FLOPs a second, and the fraction of the peak."""
  flops = step.calls * program_costs.flops(step.compiled)
  rate = flops * task.devices / seconds
  # The virtual devices of a CPU share its peak.
  parts = 1 if jax.default_backend() == "cpu" else task.devices
  return {
    "images/s": task.batch * task.devices / seconds,
    "GFLOP/s": rate / 1e9,
    "of peak": rate / (peak * parts),
  }


def _memory(
  step: CompiledStep, sgd: CompiledStep, copy: int
) -> dict[str, float]:
  """Return temporary memory and state, and both together over SGD's."""
  temporary, state = _bytes(step)
  return {
    "temporary copies": temporary / copy,
    "state copies": state / copy,
    "copies over SGD": (temporary + state - sum(_bytes(sgd))) / copy,
  }


def _bytes(step: CompiledStep) -> tuple[int, int]:
  state = program_costs.size_in_bytes(step.state)
  return program_costs.temporary_bytes(step.compiled), state
