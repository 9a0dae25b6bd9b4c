"""The SAM step against the SGD step, and against `optax.contrib.sam`."""

import contextlib
import dataclasses
import math
import tempfile
import time
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from sam_jax.benchmarks import peers, programs
from sam_jax.benchmarks.timing import interleave, ratio, spread
from sam_jax.benchmarks.workload import Workload, lower_step
from sam_jax.training.step import Recipe

RHO = 0.05


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
  """Compares steps of SGD, SAM and `optax.contrib.sam` on all devices.

  Args:
    workload: What to train.
    rounds: How often to time each.

  Returns:
    A row of measurements of each. Memory is that of the compiled program, on
    one device, in copies of the parameters: temporary buffers, and the state.

  Raises:
    ConfigError: The workload names something unknown.
    DifferentResultsError: SAM and optax's take different steps.
  """
  num_devices = jax.local_device_count()
  sam = workload.recipe(num_devices, RHO)
  recipes: dict[str, tuple[Recipe, int]] = {
    "SGD": (workload.recipe(num_devices, 0.0), 1),
    "SAM": (sam, 1),
    "optax opaque": (peers.with_optax_opaque(sam, RHO), 1),
    "optax transparent": (peers.with_optax_transparent(sam, RHO), 2),
  }
  steps = {
    name: _compile_twice(workload, recipe, num_devices, calls)
    for name, (recipe, calls) in recipes.items()
  }
  differences = _compare(steps)
  seconds = interleave(steps, rounds)
  copy = programs.size_in_bytes(steps["SGD"].state.params)
  return [
    {
      "step": name,
      "milliseconds": spread([1000 * s for s in seconds[name]]),
      "over SGD": ratio(seconds[name], seconds["SGD"]),
      **_throughput(workload, num_devices, step, seconds[name]),
      **_memory(step, steps["SGD"], copy),
      "compile s": step.compile_seconds,
      "cached s": step.cached_seconds,
      "update differs by": differences.get(name),
    }
    for name, step in steps.items()
  ]


def compile_cold(workload: Workload, recipe: Recipe, num_devices: int) -> Step:
  """Compiles a step on random images without a cache."""
  with _cache_at(None):
    return _compile(workload, recipe, num_devices)


def _compile_twice(workload, recipe, num_devices, calls) -> Step:
  """Compiles with an empty cache, and again with what that left there."""
  with tempfile.TemporaryDirectory() as directory, _cache_at(directory):
    cold = _compile(workload, recipe, num_devices).compile_seconds
    jax.clear_caches()
    step = _compile(workload, recipe, num_devices)
  return dataclasses.replace(
    step,
    compile_seconds=cold,
    cached_seconds=step.compile_seconds,
    calls=calls,
  )


@contextlib.contextmanager
def _cache_at(directory: str | None):
  """Keeps compiled programs in a directory, or nowhere."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", directory)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  compilation_cache.reset_cache()  # or it stays with the old directory
  yield
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


def _compile(workload, recipe, num_devices) -> Step:
  state = workload.create_state(recipe)
  batch = workload.random_batch(num_devices)
  started = time.perf_counter()
  compiled = lower_step(recipe, state, batch, num_devices).compile()
  seconds = time.perf_counter() - started
  # On the devices, so that no step waits for its transfer.
  batch = jax.block_until_ready(jax.pmap(lambda x: x)(batch))
  return Step(compiled, state, batch, seconds)


def _compare(steps: dict[str, Step]) -> dict[str, float]:
  """Takes a step with each; returns how far updates are from SAM's."""
  start = jax.device_get(steps["SAM"].state.params)
  after = {}
  for name, step in steps.items():
    step()
    after[name] = jax.device_get(step.state.params)
  sam = after.pop("SAM")
  del after["SGD"]
  differences = {
    name: peers.update_difference(params, sam, start)
    for name, params in after.items()
  }
  if not differences["optax opaque"] < 0.02:
    raise DifferentResultsError(
      "SAM's first update and that of optax.contrib.sam (opaque) differ by"
      f" {differences['optax opaque']:.2%} of its length."
    )
  return differences


def _throughput(workload, num_devices, step, seconds) -> dict[str, float]:
  """Images and FLOPs a second, the latter on each device."""
  rate = step.calls * programs.flops(step.compiled)
  rate /= spread(seconds).median
  return {
    "images/s": workload.batch * num_devices / spread(seconds).median,
    "GFLOP/s": rate / 1e9,
    "of peak": rate / programs.matmul_peak(workload.dtype),
  }


def _memory(step, sgd, copy) -> dict[str, float]:
  """Temporary memory and state, and both together over SGD's."""
  temporary, state = _bytes(step)
  return {
    "temporary copies": temporary / copy,
    "state copies": state / copy,
    "copies over SGD": (temporary + state - sum(_bytes(sgd))) / copy,
  }


def _bytes(step) -> tuple[int, int]:
  state = programs.size_in_bytes(step.state)
  return programs.temporary_bytes(step.compiled), state
