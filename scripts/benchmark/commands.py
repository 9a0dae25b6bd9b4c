"""The sub-commands: the benchmark, the flags and the table of each."""

import dataclasses
import importlib.metadata
import re
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from sam_jax import paths
from sam_jax.config import cli
from sam_jax.plan import chips, compiler
from scripts.benchmark import (
  compilation,
  hessian_products,
  inputs,
  loops,
  methods,
  rounding,
  startup,
  steps,
)
from scripts.benchmark.training_task import TrainingTask

Rows = list[dict[str, Any]]
# Facts about the measurement, and the rows of its table.
Result = tuple[dict[str, Any], Rows]


@dataclasses.dataclass(frozen=True)
class SubCommand:
  """A sub-command.

  Attributes:
    measure: Values of the flags -> facts and rows.
    flags: Names of the flags that it uses.
    note: How to read its table.
    view: Rows -> the rows of the table.
  """

  measure: Callable[[flags.FlagValues], Result]
  flags: tuple[str, ...]
  note: str
  view: Callable[[Rows], Rows] = list


def find(name: str) -> SubCommand:
  """Return the sub-command of a name, or refuse it."""
  if name not in SUB_COMMANDS:
    known = ", ".join(SUB_COMMANDS)
    cli.refuse(f"{name!r} is no sub-command; known: {known}.")
  return SUB_COMMANDS[name]


def check_flags(name: str, options: flags.FlagValues) -> None:
  """Refuse flags that a sub-command does not use, or can't obey here."""
  used = SUB_COMMANDS[name].flags
  for flag in sorted({f for c in SUB_COMMANDS.values() for f in c.flags}):
    if options[flag].present and flag not in used:
      known = ", ".join(f"--{other}" for other in used)
      cli.refuse(f"`{name}` does not use --{flag}; it uses {known}, --json.")
  wanted, found = options.devices, jax.local_device_count()
  needs_all = name in ("loop", "startup")
  if wanted and (wanted > found or (needs_all and wanted != found)):
    cli.refuse(f"--devices={wanted}, but this host has {found}.")


def _task(options: flags.FlagValues) -> TrainingTask:
  """Return the task that the flags describe."""
  return TrainingTask(
    model=options.model,
    dataset=options.dataset,
    batch=options.batch or 8,
    dtype=options.dtype,
    remat=options.remat,
    devices=options.devices or jax.local_device_count(),
  )


def _measure_steps(options: flags.FlagValues) -> Result:
  task, rounds = _task(options), options.rounds
  facts = {**dataclasses.asdict(task), "m": task.batch, "rounds": rounds}
  return facts, steps.measure_steps(task, rounds)


def _measure_m(options: flags.FlagValues) -> Result:
  task, rounds = _task(options), options.rounds
  ms = [task.batch // k for k in (1, 2, 4, 8) if task.batch % k == 0]
  if options.m is not None:
    try:
      ms = [int(m) for m in options.m]
    except ValueError:
      ms = []
    if not ms:
      given = ",".join(options.m)
      cli.refuse(f"--m={given} must be numbers, as in 32,8.")
  facts = {**dataclasses.asdict(task), "m": ms, "rounds": rounds}
  return facts, steps.measure_m(task, ms, rounds)


def _measure_torch(options: flags.FlagValues) -> Result:
  try:
    from scripts.benchmark import torch_steps
  except ImportError as error:
    cli.refuse(f"`torch` needs PyTorch ({error}): pip install torch.")
  task, facts = _task_of_torch("torch", options)
  return facts, torch_steps.measure_torch(task, options.rounds)


def _measure_torch_hessian(options: flags.FlagValues) -> Result:
  try:
    from scripts.benchmark import torch_hessian
  except ImportError as error:
    cli.refuse(
      f"`pyhessian` needs PyTorch and PyHessian ({error}): pip install torch"
      " pyhessian."
    )
  task, facts = _task_of_torch("pyhessian", options)
  facts["PyHessian"] = importlib.metadata.version("pyhessian")
  return facts, torch_hessian.measure_torch_hessian(task, options.rounds)


def _task_of_torch(
  name: str, options: flags.FlagValues
) -> tuple[TrainingTask, dict[str, Any]]:
  """Return the task of a comparison with PyTorch, and facts about it."""
  if not re.fullmatch(r"wrn\d+_\d+", options.model):
    cli.refuse(f"`{name}` compares wide ResNets, not --model={options.model}.")
  if jax.default_backend() != "cpu":
    cli.refuse(f"`{name}` compares CPUs. Set JAX_PLATFORMS=cpu.")
  task = dataclasses.replace(_task(options), devices=1)
  facts = {**dataclasses.asdict(task), "rounds": options.rounds}
  return task, {**facts, "PyTorch": importlib.metadata.version("torch")}


def _measure_input(options: flags.FlagValues) -> Result:
  batch, rounds = options.batch or 128, options.rounds
  rows = inputs.measure_input(batch, rounds)
  facts = {"batch": batch, "rounds": rounds}
  return facts, [*rows, inputs.autoaugment_flops()]


def _measure_loop(options: flags.FlagValues) -> Result:
  num_steps, rounds = options.steps, options.rounds
  facts = {**_describe_run(options), "steps": num_steps, "rounds": rounds}
  return facts, loops.measure_loop(options.config, num_steps, rounds)


def _measure_scaling(options: flags.FlagValues) -> Result:
  task = _task(options)
  counts = [2**k for k in range(task.devices.bit_length())]
  facts = {**dataclasses.asdict(task), "devices": counts}
  return facts, compilation.measure_scaling(task, counts)


def _measure_startup(options: flags.FlagValues) -> Result:
  facts = {**_describe_run(options), "rounds": options.rounds}
  return facts, startup.measure_startup(options.config, options.rounds)


def _measure_hessian(options: flags.FlagValues) -> Result:
  task, rounds = _task(options), options.rounds
  facts = {**dataclasses.asdict(task), "rounds": rounds}
  return facts, hessian_products.measure_hessian_product(task, rounds)


def _measure_rounding(options: flags.FlagValues) -> Result:
  task = _task(options)
  facts = {"model": task.model, "dataset": task.dataset}
  return facts, rounding.measure_rounding(task)


def _measure_compilation(options: flags.FlagValues) -> Result:
  models: tuple[str, ...] = compilation.FAMILIES
  if options["model"].present:
    models = (options.model,)
  task, tpu, versions = _task(options), None, {}
  if options.topology:
    tpu = _slice(options)
    task = dataclasses.replace(task, devices=tpu.num_devices)
    versions = {"topology": tpu.name, "libtpu": compiler.libtpu_version()}
  rows = []
  for model in models:
    task = dataclasses.replace(task, model=model)
    try:
      rows += compilation.measure_compilation(task, tpu)
    except jax.errors.JaxRuntimeError as error:
      reason = str(error).partition("\n")[0]
      raise compiler.CompileError(f"{model}: {reason}") from error
  facts = {**dataclasses.asdict(task), "model": ", ".join(models), **versions}
  return facts, rows


def _slice(options: flags.FlagValues) -> chips.Slice:
  """Return the slice of --topology, or refuse it."""
  if options.devices:
    cli.refuse("--topology has its own devices: leave --devices out.")
  try:
    tpu = chips.parse_topology(options.topology)
    compiler.check_libtpu()
  except (ValueError, compiler.CompileError) as error:
    cli.refuse(str(error))
  return tpu


def _measure_methods(options: flags.FlagValues) -> Result:
  size = methods.SIZES[options.size]
  comparison = methods.Comparison(
    dataset=options.dataset if options["dataset"].present else "digits",
    model=options.model if options["model"].present else "perceptron",
    size=size,
    root=paths.resolve(options.root),
  )
  facts = {
    "dataset": comparison.dataset,
    "model": comparison.model,
    **dataclasses.asdict(size),
    "rounds": options.rounds,
  }
  return facts, methods.measure_methods(comparison, options.rounds)


def _describe_run(options: flags.FlagValues) -> dict[str, Any]:
  """Return facts about the run of --config, with the batch of a device."""
  config, devices = options.config, jax.device_count()
  batch = config.batch_size // devices
  file: Any = options["config"]
  return {
    "config": file.config_filename,
    "model": config.model.name,
    "dataset": config.dataset.name,
    "batch": batch,
    "dtype": config.model.dtype,
    "remat": config.model.remat,
    "m": config.sam.m or batch,
    "devices": devices,
  }


_NETWORK = ("model", "dataset", "batch", "dtype", "remat", "devices")
_SPREADS = "Batch is that of a device; medians (quartiles) of the rounds."
SUB_COMMANDS = {
  "step": SubCommand(
    _measure_steps,
    (*_NETWORK, "rounds"),
    f"{_SPREADS} Images and FLOPs are those of all devices. The devices of a"
    " CPU share it; its peak is that of the machine.",
  ),
  "m": SubCommand(_measure_m, (*_NETWORK, "rounds", "m"), _SPREADS),
  "input": SubCommand(
    _measure_input,
    ("batch", "rounds", "cores"),
    "Medians (quartiles) of the rounds. Seconds are those of the processor,"
    " added up over its cores; for accelerators, on the wall.",
  ),
  "loop": SubCommand(
    _measure_loop,
    ("config", "steps", "rounds", "devices"),
    f"{_SPREADS} Above 1 the loop loses nothing that could be measured.",
  ),
  "scale": SubCommand(
    _measure_scaling,
    _NETWORK,
    "Batch is that of a device; volume and memory are in copies of the"
    " parameters. XLA combines the collectives that were traced.",
  ),
  "startup": SubCommand(
    _measure_startup, ("config", "rounds", "devices"), _SPREADS
  ),
  "hessian": SubCommand(
    _measure_hessian,
    (*_NETWORK, "rounds"),
    f"{_SPREADS} Seconds of a CPU are added up over its cores.",
  ),
  "compile": SubCommand(
    _measure_compilation,
    (*_NETWORK, "topology"),
    "Batch is that of a device; compiled without a cache. CPU seconds are those"
    " of all cores; kernels are what XLA generates code for.",
  ),
  "rounding": SubCommand(
    _measure_rounding,
    ("model", "dataset"),
    "Cosine between a random eps and its part that rounded weights show.",
  ),
  "torch": SubCommand(
    _measure_torch,
    ("model", "dataset", "batch", "rounds"),
    f"{_SPREADS} Both use all cores.",
  ),
  "pyhessian": SubCommand(
    _measure_torch_hessian,
    ("model", "dataset", "batch", "rounds"),
    f"{_SPREADS} Seconds are added up over the cores. Eigenvalues of largest"
    " magnitude, to a tolerance of 0.001.",
  ),
  "methods": SubCommand(
    _measure_methods,
    ("dataset", "model", "rounds", "size", "root"),
    "Means ± half of the 95% interval over seeds. Time, FLOPs and memory are"
    " over those of SGD; at equal cost, methods with fewer gradients than SAM"
    " train for more epochs.",
    methods.table,
  ),
}
