"""Compile training steps without running them: time, and communication."""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from sam_jax import target
from sam_jax.plan import compiler
from sam_jax.plan.chips import Slice
from sam_jax.training.step import Parts
from scripts.benchmark import optax_sam, program_costs
from scripts.benchmark.training_task import RHO, TrainingTask

# One network of each family; PyramidNet-272 takes minutes.
FAMILIES = (
  "wrn28_10",
  "shake_shake_26_2x96d",
  "pyramidnet110",
  "resnet50",
  "efficientnet_b0",
)

_CACHE_OPTIONS = (
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
)


@contextlib.contextmanager
def cache_at(directory: str | None) -> Iterator[None]:
  """Keep all programs that are compiled in the context in a directory.

  Args:
    directory: The directory, or None to keep nothing.
  """
  before = [getattr(jax.config, name) for name in _CACHE_OPTIONS]
  _set_cache_options(directory, 0.0)
  try:
    yield
  finally:
    _set_cache_options(*before)


def measure_compilation(
  task: TrainingTask, tpu: Slice | None = None
) -> list[dict[str, Any]]:
  """Compile the steps of SGD and SAM without a cache.

  Args:
    task: The task, of as many devices as the slice has.
    tpu: A slice of TPUs to compile for, if not for the devices of this host.

  Returns:
    A row of each: seconds to trace and to compile, with the seconds of all CPU
    cores; kernels; FLOPs of a device; and temporary memory in copies of the
    parameters.

  Raises:
    ConfigError: The task names something unknown.
    JaxRuntimeError: libtpu refuses the slice or the program.
  """
  devices = compiler.devices_of(tpu) if tpu else None
  platform = "tpu" if tpu else jax.default_backend()
  rows = []
  for name, rho in {"SGD": 0.0, "SAM": RHO}.items():
    with cache_at(None), target.compiling_for(platform):
      parts = task.parts(rho)
      state = task.state_shapes(parts)
      started, started_cpu = time.perf_counter(), time.process_time()
      lowered = task.lower_step(parts, state, devices=devices)
      traced, traced_cpu = time.perf_counter(), time.process_time()
      compiled = lowered.compile()
      ended, ended_cpu = time.perf_counter(), time.process_time()
    rows.append(
      {
        "network": task.model,
        "step": name,
        "trace s": traced - started,
        "trace CPU s": traced_cpu - started_cpu,
        "compile s": ended - traced,
        "compile CPU s": ended_cpu - traced_cpu,
        "kernels": program_costs.kernels(compiled),
        **_costs(compiled, state.params),
      }
    )
  return rows


def measure_scaling(
  task: TrainingTask, counts: Iterable[int]
) -> list[dict[str, Any]]:
  """Compile steps for several numbers of devices and read their communication.

  Args:
    task: The task; its batch is that of each device.
    counts: Numbers of devices.

  Returns:
    A row of each step and number of devices. XLA combines the collectives that
    were traced, on a CPU into a single one. Volume is what a device puts into
    them in a step, in copies of the parameters; FLOPs and temporary memory are
    those of a device.

  Raises:
    ConfigError: The task names something unknown.
  """
  rows = []
  for count in counts:
    part = dataclasses.replace(task, devices=count)
    sam = part.parts(RHO)
    alternatives = {
      "SGD": part.parts(0.0),
      "SAM, m of a device": sam,
      "optax opaque, m of a device": optax_sam.with_optax_opaque(sam, RHO),
      "SAM, m of all devices": part.parts(RHO, part.batch * count),
    }
    for name, parts in alternatives.items():
      row = {"step": name, "devices": count}
      rows.append({**row, **_communication(part, parts)})
  return rows


def _communication(task: TrainingTask, parts: Parts) -> dict[str, float]:
  state = task.state_shapes(parts)
  lowered = task.lower_step(parts, state)
  compiled = lowered.compile()
  collectives = program_costs.collectives(compiled)
  return {
    "collectives traced": program_costs.collectives_traced(lowered),
    "combined": collectives.number,
    "volume": collectives.bytes / program_costs.size_in_bytes(state.params),
    **_costs(compiled, state.params),
  }


def _costs(compiled: jax.stages.Compiled, params: Any) -> dict[str, float]:
  """Return FLOPs and temporary memory of a device."""
  temporary = program_costs.temporary_bytes(compiled)
  return {
    "GFLOP": program_costs.flops(compiled) / 1e9,
    "temporary copies": temporary / program_costs.size_in_bytes(params),
  }


def _set_cache_options(*values: Any) -> None:
  for name, value in zip(_CACHE_OPTIONS, values, strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # or JAX keeps using the old directory
