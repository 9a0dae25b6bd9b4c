"""Measures what training costs, and what is lost.

python scripts/benchmark.py step --model=wrn16_4 --batch=32

Sub-commands:
  step     Steps of SGD, SAM and optax.contrib.sam: time, FLOP/s, memory.
  m        The SAM step against m.
  input    Images a second of the input pipeline, on --cores.
  loop     The training loop over the bare step, of a --config.
  scale    Communication of a step on 1, 2, 4 and 8 devices.
  startup  Launch to first step of a --config, without and with a cache.
  compile  Time to compile the steps of SGD and SAM, which are not run.

Alternatives are timed in turn, round by round; numbers are medians with
quartiles, and a ratio is that of measurements of the same round.
"""

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

_MODEL = flags.DEFINE_string("model", "wrn28_10", "Name of the network.")
_DATASET = flags.DEFINE_string("dataset", "cifar10", "Gives shape and classes.")
_BATCH = flags.DEFINE_integer(
  "batch", None, "Examples on each device; default 8, of `input` 128.", 1
)
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the activations.")
_REMAT = flags.DEFINE_bool("remat", False, "Recompute activations.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often to time each.", 1)
_M = flags.DEFINE_list("m", None, "Default: --batch and its half, fourth...")
_STEPS = flags.DEFINE_integer("steps", 50, "Steps of a stretch of `loop`.", 1)
_CORES = flags.DEFINE_integer(
  "cores", 1, "CPU cores that `input` may use; 0: all.", 0
)
_DEFAULT_CONFIG = "configs/digits.py:sam"
_CONFIG = config_flags.DEFINE_config_file(
  "config", _DEFAULT_CONFIG, "What `loop` and `startup` train."
)
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv: list[str]) -> None:
  """Runs the sub-command and prints its table."""
  name = argv[1] if len(argv) == 2 else " ".join(argv[1:])
  if name not in SUB_COMMANDS:
    refuse(f"{name!r} is no sub-command; known: {', '.join(SUB_COMMANDS)}.")
  absl_logging.set_verbosity(absl_logging.ERROR)
  prepare_machine(name)
  from sam_jax.benchmarks.startup import TrainingFailedError
  from sam_jax.benchmarks.steps import DifferentResultsError
  from sam_jax.datasets.catalog import DatasetError
  from sam_jax.training.config import ConfigError

  try:
    rows = SUB_COMMANDS[name]()
  except (ConfigError, DatasetError) as error:
    refuse(str(error))
  except (DifferentResultsError, TrainingFailedError) as error:
    sys.exit(f"error: {error}")
  if _JSON.value:
    print(json.dumps({"on": describe_machine(), "rows": rows}, default=str))
  else:
    print(f"{describe_machine()}\n")
    print("\n".join(table(rows)))


def prepare_machine(name: str) -> None:
  """Sets what must be set before JAX starts."""
  if name == "input" and _CORES.value:
    cores = sorted(os.sched_getaffinity(0))[: _CORES.value]
    os.sched_setaffinity(0, cores)
  if name == "scale":  # for CPUs; accelerators are as many as there are
    flag = "--xla_force_host_platform_device_count=8"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def describe_machine() -> str:
  """Names the devices, and what they computed."""
  import jax

  device = jax.devices()[0].device_kind
  cores = len(os.sched_getaffinity(0))
  return (
    f"{jax.device_count()} x {device}, {cores} CPU core(s), jax"
    f" {jax.__version__}"
  )


def workload() -> Any:
  """What the flags ask to train."""
  from sam_jax.benchmarks.workload import Workload

  return Workload(
    model=_MODEL.value,
    dataset=_DATASET.value,
    batch=_BATCH.value or 8,
    dtype=_DTYPE.value,
    remat=_REMAT.value,
  )


def measure_steps() -> list[dict[str, Any]]:
  """Sub-command `step`."""
  from sam_jax.benchmarks import steps

  return steps.measure_steps(workload(), _ROUNDS.value)


def measure_m() -> list[dict[str, Any]]:
  """Sub-command `m`."""
  from sam_jax.benchmarks import m_cost

  batch = workload().batch
  halves = [batch // parts for parts in (1, 2, 4, 8) if batch % parts == 0]
  try:
    ms = [int(m) for m in _M.value or halves]
  except ValueError:
    refuse(f"--m={','.join(_M.value)} must be numbers, as in 32,8.")
  return m_cost.measure_m(workload(), ms, _ROUNDS.value)


def measure_input() -> list[dict[str, Any]]:
  """Sub-command `input`."""
  from sam_jax.benchmarks import inputs

  rows = inputs.measure_input(_BATCH.value or 128, _ROUNDS.value)
  return [*rows, inputs.autoaugment_flops()]


def measure_loop() -> list[dict[str, Any]]:
  """Sub-command `loop`."""
  from sam_jax.benchmarks import loops

  return loops.measure_loop(_CONFIG.value, _STEPS.value, _ROUNDS.value)


def measure_scaling() -> list[dict[str, Any]]:
  """Sub-command `scale`."""
  from sam_jax.benchmarks import scaling

  return scaling.measure_scaling(workload())


def measure_startup() -> list[dict[str, Any]]:
  """Sub-command `startup`."""
  from sam_jax.benchmarks import startup

  # The flags as they were given: a config can't be told from its values.
  given = [a for a in sys.argv if a.startswith("--config")]
  if not any(a.startswith("--config=") for a in given):
    given.append(f"--config={_DEFAULT_CONFIG}")
  return startup.measure_startup(given, _ROUNDS.value)


def measure_compilation() -> list[dict[str, Any]]:
  """Sub-command `compile`."""
  from sam_jax.benchmarks import compilation

  return compilation.measure_compilation(workload())


def table(rows: list[dict[str, Any]]) -> Iterable[str]:
  """Lines of Markdown tables; rows with other columns start another one."""
  columns = None
  for row in rows:
    if list(row) != columns:
      if columns:
        yield ""
      columns = list(row)
      yield f"| {' | '.join(columns)} |"
      yield f"|{'---|' * len(columns)}"
    yield f"| {' | '.join(map(show, row.values()))} |"


def show(value: Any) -> str:
  """A value, or a median with quartiles, to three digits."""
  if value is None:
    return ""
  if isinstance(value, tuple):
    median, low, high = map(show, value)
    return f"{median} ({low} to {high})"
  if isinstance(value, float):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
  return str(value)


def refuse(message: str) -> None:
  """Says in one line why there can be no measurement."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; a wrong one is one clear line, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    refuse(str(error).splitlines()[0])


SUB_COMMANDS = {
  "step": measure_steps,
  "m": measure_m,
  "input": measure_input,
  "loop": measure_loop,
  "scale": measure_scaling,
  "startup": measure_startup,
  "compile": measure_compilation,
}


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
