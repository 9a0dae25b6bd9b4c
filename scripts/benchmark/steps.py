"""The SAM step against the SGD step, and against `optax.contrib.sam`."""

import dataclasses
import math
import tempfile
import time
from typing import Any

import jax

from sam_jax.training.step import Recipe
from scripts.benchmark import peers, programs
from scripts.benchmark.caches import cache_at
from scripts.benchmark.timing import interleave, ratio, spread
from scripts.benchmark.workload import Workload

RHO = 0.05
# How far the updates of the same numerics may be apart, in lengths of one. In
# float32 on a CPU up to 3e-6 was seen; elsewhere products may round more.
_TOLERANCE, _TOLERANCE_OF_ROUGH_PRODUCTS = 1e-4, 0.02


class DifferentResultsError(Exception):
  """Two sides of a comparison don't compute the same."""


@dataclasses.dataclass
class Step:
  """A compiled step with its state and batch; a call takes one SAM step.

  Attributes:
    compiled: (state, batch) -> (state, metrics).
    state: The state, replaced by every call.
    batch: The same for every call.
    compile_seconds: Without a cache.
    cached_seconds: With the program in the cache.
    calls: How often `compiled` must run.
  """

  compiled: Any
  state: Any
  batch: Any
  compile_seconds: float
  cached_seconds: float = math.nan
  calls: int = 1

  def __call__(self) -> Any:
    """Takes a step; returns what to wait for."""
    for _ in range(self.calls):
      self.state, metrics = self.compiled(self.state, self.batch)
    return metrics


def measure_steps(workload: Workload, rounds: int) -> list[dict[str, Any]]:
  """Compares steps of SGD, SAM and `optax.contrib.sam`.

  Args:
    workload: What to train.
    rounds: How often to time each.

  Returns:
    A row of measurements of each. Images and FLOPs are of all devices
    together; memory is that of the compiled program, on one device, in copies
    of the parameters: temporary buffers, and the state. `numerics` tells
    whether the first update is SAM's, up to rounding.

  Raises:
    ConfigError: The workload names something unknown.
    DifferentResultsError: SAM and optax's opaque mode take different steps.
  """
  sam = workload.recipe(RHO)
  recipes: dict[str, tuple[Recipe, int]] = {
    "SGD": (workload.recipe(0.0), 1),
    "SAM": (sam, 1),
    "optax opaque": (peers.with_optax_opaque(sam, RHO), 1),
    "optax transparent": (peers.with_optax_transparent(sam, RHO), 2),
  }
  steps = {
    name: _compile_twice(workload, recipe, calls)
    for name, (recipe, calls) in recipes.items()
  }
  numerics = _compare(steps, tolerance(workload.dtype))
  products = programs.matrix_products(workload.dtype)
  seconds = interleave({**steps, **products}, rounds)
  peak = programs.peak(products, seconds)
  copy = programs.size_in_bytes(steps["SGD"].state.params)
  return [
    {
      "step": name,
      "milliseconds": spread([1000 * s for s in seconds[name]]),
      "over SGD": ratio(seconds[name], seconds["SGD"]),
      **_throughput(workload, step, spread(seconds[name]).median, peak),
      **_memory(step, steps["SGD"], copy),
      "compile s": step.compile_seconds,
      "cached s": step.cached_seconds,
      **numerics[name],
    }
    for name, step in steps.items()
  ]


def tolerance(dtype: str) -> float:
  """How far an update may be from SAM's, relative to its length."""
  is_exact = dtype == "float32" and jax.default_backend() == "cpu"
  return _TOLERANCE if is_exact else _TOLERANCE_OF_ROUGH_PRODUCTS


def compile_cold(workload: Workload, recipe: Recipe, calls: int = 1) -> Step:
  """Compiles a step without a cache, and makes a state and a batch for it."""
  state = workload.create_state(recipe)
  with cache_at(None):
    compiled, seconds = _compile(workload, recipe, state, calls)
  batch = _on_devices(workload)
  return Step(compiled, state, batch, seconds, calls=calls)


def _compile_twice(workload: Workload, recipe: Recipe, calls: int) -> Step:
  """Compiles with an empty cache, and again with what that left there."""
  state = workload.create_state(recipe)
  with tempfile.TemporaryDirectory() as directory, cache_at(directory):
    _, cold = _compile(workload, recipe, state, calls)
    jax.clear_caches()
    compiled, cached = _compile(workload, recipe, state, calls)
  batch = _on_devices(workload)
  return Step(compiled, state, batch, cold, cached, calls)


def _on_devices(workload: Workload) -> Any:
  """A batch on the devices, so that no step waits for its transfer."""
  send = jax.pmap(lambda x: x, devices=jax.local_devices()[: workload.devices])
  return jax.block_until_ready(send(workload.random_batch()))


def _compile(workload, recipe, state, calls) -> tuple[Any, float]:
  """Returns the program, and how long tracing and compiling it took."""
  started = time.perf_counter()
  compiled = workload.lower_step(recipe, state, calls).compile()
  return compiled, time.perf_counter() - started


def _compare(
  steps: dict[str, Step], tolerance: float
) -> dict[str, dict[str, Any]]:
  """Takes a step with each; tells how far its update is from SAM's."""
  start = jax.device_get(steps["SAM"].state.params)
  after = {}
  for name, step in steps.items():
    step()
    after[name] = jax.device_get(step.state.params)
  differences = dict.fromkeys(steps)
  for name in set(steps) - {"SGD", "SAM"}:
    differences[name] = peers.update_difference(
      after[name], after["SAM"], start
    )
  if not differences["optax opaque"] <= tolerance:
    raise DifferentResultsError(
      "SAM's first update and that of optax.contrib.sam (opaque) differ by"
      f" {differences['optax opaque']:.1e} of its length."
    )
  return {
    name: {"update differs by": value, "numerics": _verdict(value, tolerance)}
    for name, value in differences.items()
  }


def _verdict(difference: float | None, tolerance: float) -> str | None:
  if difference is None:
    return None
  return "same" if difference <= tolerance else "different"


def _throughput(
  workload: Workload, step: Step, seconds: float, peak: float
) -> dict[str, float]:
  """Images and FLOPs a second, and how much of the peak that is."""
  rate = step.calls * programs.flops(step.compiled) * workload.devices / seconds
  # The peak of a CPU is that of the machine, which its virtual devices share.
  parts = 1 if jax.default_backend() == "cpu" else workload.devices
  return {
    "images/s": workload.batch * workload.devices / seconds,
    "GFLOP/s": rate / 1e9,
    "of peak": rate / (peak * parts),
  }


def _memory(step: Step, sgd: Step, copy: int) -> dict[str, float]:
  """Temporary memory and state, and both together over SGD's."""
  temporary, state = _bytes(step)
  return {
    "temporary copies": temporary / copy,
    "state copies": state / copy,
    "copies over SGD": (temporary + state - sum(_bytes(sgd))) / copy,
  }


def _bytes(step: Step) -> tuple[int, int]:
  state = programs.size_in_bytes(step.state)
  return programs.temporary_bytes(step.compiled), state
