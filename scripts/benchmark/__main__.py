"""Measures what training costs, and what is lost.

python -m scripts.benchmark step --model=wrn16_4 --batch=32

Sub-commands:
  step     Steps of SGD, SAM and optax.contrib.sam: time, FLOP/s, memory.
  m        The SAM step against m.
  input    Images a second of the input pipeline, on --cores.
  loop     The training loop over the bare step, of a --config.
  scale    Communication of a step on 1, 2, 4... --devices.
  startup  Launch to first step of a --config, without and with a cache.
  compile  Time to compile the steps of SGD and SAM, which are not run.

Alternatives are timed in turn, round by round; numbers are medians with
quartiles, and a ratio is that of measurements of the same round.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from sam_jax.config import cli as command_line

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
_DEVICES = flags.DEFINE_integer(
  "devices",
  None,
  "Devices of this host; a CPU is divided into as many, by default into one and"
  " by `scale` into 8.",
  1,
)
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
_CONFIG = command_line.define_config()
_DEFAULT_CONFIG = "configs/digits.py:sam"  # of `loop` and `startup`

_NETWORK = ("model", "dataset", "batch", "dtype", "remat", "devices")
Rows = list[dict[str, Any]]


def main(argv: list[str]) -> None:
  """Runs the sub-command and prints its table."""
  name = " ".join(argv[1:])
  if name not in SUB_COMMANDS:
    known = ", ".join(SUB_COMMANDS)
    command_line.refuse(f"{name!r} is no sub-command; known: {known}.")
  command = SUB_COMMANDS[name]
  refuse_unused_flags(name, command.flags)
  absl_logging.set_verbosity(absl_logging.ERROR)
  prepare_machine(name)
  from sam_jax.config.schema import ConfigError
  from sam_jax.datasets.catalog import DatasetError
  from scripts.benchmark import report
  from scripts.benchmark.startup import TrainingFailedError
  from scripts.benchmark.steps import DifferentResultsError

  check_devices(name)
  try:
    facts, rows = command.measure()
  except (ConfigError, DatasetError) as error:
    command_line.refuse(str(error))
  except (DifferentResultsError, TrainingFailedError) as error:
    sys.exit(f"error: {error}")
  what = {"benchmark": name, **facts, **report.describe_machine()}
  if _JSON.value:
    print(report.as_json(what, rows))
  else:
    print(f"{report.caption(what)}.\n{command.note}\n")
    print("\n".join(report.table(rows)))


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; sub-commands that train have a config by default."""
  is_given = any(a.split("=")[0] in ("--config", "-config") for a in argv)
  trains = {"loop", "startup"} & set(argv)
  if not is_given and (trains or any(a.startswith("--config.") for a in argv)):
    argv.insert(1, f"--config={_DEFAULT_CONFIG}")  # into sys.argv, read again
  return command_line.parse_flags(argv)


def refuse_unused_flags(name: str, used: tuple[str, ...]) -> None:
  """Refuses flags that would not change what the sub-command measures."""
  for holder in _OPTIONS:
    if holder.present and holder.name not in used:
      command_line.refuse(
        f"`{name}` does not use --{holder.name}; it uses"
        f" {', '.join('--' + flag for flag in used)}, --json."
      )


def prepare_machine(name: str) -> None:
  """Sets what must be set before JAX starts."""
  if name == "input" and _CORES.value:
    cores = sorted(os.sched_getaffinity(0))[: _CORES.value]
    os.sched_setaffinity(0, cores)
  devices = _DEVICES.value or (8 if name == "scale" else None)
  if devices:  # for CPUs; accelerators are as many as there are
    flag = f"--xla_force_host_platform_device_count={devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def check_devices(name: str) -> None:
  """Refuses more devices than there are, or fewer where all take part."""
  import jax

  wanted, found = _DEVICES.value, jax.local_device_count()
  if wanted is None or wanted == found:
    return
  if wanted > found or name in ("loop", "startup"):
    command_line.refuse(f"--devices={wanted}, but this host has {found}.")


def workload() -> Any:
  """What the flags ask to train."""
  import jax

  from scripts.benchmark.workload import Workload

  return Workload(
    model=_MODEL.value,
    dataset=_DATASET.value,
    batch=_BATCH.value or 8,
    dtype=_DTYPE.value,
    remat=_REMAT.value,
    devices=_DEVICES.value or jax.local_device_count(),
  )


def measure_steps() -> tuple[dict[str, Any], Rows]:
  """Sub-command `step`."""
  from scripts.benchmark import steps

  task, rounds = workload(), _ROUNDS.value
  what = {**dataclasses.asdict(task), "m": task.batch, "rounds": rounds}
  return what, steps.measure_steps(task, rounds)


def measure_m() -> tuple[dict[str, Any], Rows]:
  """Sub-command `m`."""
  from scripts.benchmark import m_cost

  task, rounds = workload(), _ROUNDS.value
  ms = [task.batch // k for k in (1, 2, 4, 8) if task.batch % k == 0]
  if _M.value is not None:
    try:
      ms = [int(m) for m in _M.value]
    except ValueError:
      ms = []
    if not ms:
      given = ",".join(_M.value)
      command_line.refuse(f"--m={given} must be numbers, as in 32,8.")
  what = {**dataclasses.asdict(task), "m": ms, "rounds": rounds}
  return what, m_cost.measure_m(task, ms, rounds)


def measure_input() -> tuple[dict[str, Any], Rows]:
  """Sub-command `input`."""
  from scripts.benchmark import inputs

  batch, rounds = _BATCH.value or 128, _ROUNDS.value
  rows = inputs.measure_input(batch, rounds)
  what = {"batch": batch, "rounds": rounds}
  return what, [*rows, inputs.autoaugment_flops()]


def measure_loop() -> tuple[dict[str, Any], Rows]:
  """Sub-command `loop`."""
  from scripts.benchmark import loops

  steps, rounds = _STEPS.value, _ROUNDS.value
  what = {**describe_run(), "steps": steps, "rounds": rounds}
  return what, loops.measure_loop(_CONFIG.value, steps, rounds)


def measure_scaling() -> tuple[dict[str, Any], Rows]:
  """Sub-command `scale`."""
  from scripts.benchmark import scaling

  task = workload()
  counts = [2**k for k in range(task.devices.bit_length())]
  what = {**dataclasses.asdict(task), "devices": counts}
  return what, scaling.measure_scaling(task, counts)


def measure_startup() -> tuple[dict[str, Any], Rows]:
  """Sub-command `startup`."""
  from scripts.benchmark import startup

  what = {**describe_run(), "rounds": _ROUNDS.value}
  return what, startup.measure_startup(_CONFIG.value, _ROUNDS.value)


def measure_compilation() -> tuple[dict[str, Any], Rows]:
  """Sub-command `compile`."""
  from scripts.benchmark import compilation

  task = workload()
  what = {**dataclasses.asdict(task), "m": task.batch}
  return what, compilation.measure_compilation(task)


def describe_run() -> dict[str, Any]:
  """What --config trains, its batch divided among the devices."""
  import jax

  config, devices = _CONFIG.value, jax.device_count()
  batch = config.batch_size // devices
  return {
    "config": flags.FLAGS["config"].config_filename,
    "model": config.model.name,
    "dataset": config.dataset.name,
    "batch": batch,
    "dtype": config.model.dtype,
    "remat": config.model.remat,
    "m": config.sam.m or batch,
    "devices": devices,
  }


@dataclasses.dataclass(frozen=True)
class SubCommand:
  """What a sub-command runs, which flags it uses, and how to read its table."""

  measure: Callable[[], tuple[dict[str, Any], Rows]]
  flags: tuple[str, ...]
  note: str


_SPREADS = "Batch is that of a device; medians (quartiles) of the rounds."
_OPTIONS = (
  *(_MODEL, _DATASET, _BATCH, _DTYPE, _REMAT, _ROUNDS, _M, _STEPS, _CORES),
  *(_DEVICES, _CONFIG),
)
SUB_COMMANDS = {
  "step": SubCommand(
    measure_steps,
    (*_NETWORK, "rounds"),
    f"{_SPREADS} Images and FLOPs are of all devices; those of a CPU share it,"
    " and its peak is that of the machine.",
  ),
  "m": SubCommand(measure_m, (*_NETWORK, "rounds", "m"), _SPREADS),
  "input": SubCommand(
    measure_input,
    ("batch", "rounds", "cores"),
    "Medians (quartiles) of the rounds.",
  ),
  "loop": SubCommand(
    measure_loop,
    ("config", "steps", "rounds", "devices"),
    f"{_SPREADS} Above 1 the loop loses nothing that could be measured.",
  ),
  "scale": SubCommand(
    measure_scaling,
    _NETWORK,
    "Batch is that of a device; volume and memory in copies of the parameters."
    " XLA combines the collectives that were traced.",
  ),
  "startup": SubCommand(
    measure_startup, ("config", "rounds", "devices"), _SPREADS
  ),
  "compile": SubCommand(
    measure_compilation, _NETWORK, "Batch is that of a device; without a cache."
  ),
}


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
