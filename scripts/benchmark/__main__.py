"""Measure the cost of training.

python -m scripts.benchmark step --model=wrn16_4 --batch=32

Sub-commands:
  step     Steps of SGD, SAM and optax.contrib.sam, in our training step and
           in a bare loop: time, FLOP/s, memory.
  m        The SAM step against m.
  methods  Errors and costs of SGD, SAM and its cheap variants.
  input    Images a second of the input pipeline, on --cores.
  loop     The training loop over the bare step, of a --config.
  scale    Communication of a step on 1, 2, 4... --devices.
  startup  Launch to first step of a --config, without and with a cache.
  hessian  A Hessian-vector product over a gradient.
  compile  Time to compile the steps of SGD and SAM, which are not run, here
           or for a --topology of TPUs.
  rounding What products of few bits leave of a perturbation.
  torch    Steps of a wide ResNet on a CPU against PyTorch's.
  pyhessian
           Eigenvalues of a wide ResNet's Hessian on a CPU against PyHessian's.

--json=FILE keeps the numbers, and how they were made. The pages of docs/ show
those of docs/numbers: see `python -m scripts.pages`.

Alternatives are timed in turn, round by round. Numbers are medians with
quartiles, and a ratio is that of measurements of the same round.
"""

import os
import sys

from absl import app, flags, logging

from sam_jax.config import cli
from sam_jax.plan import compiler
from sam_jax.runs import compilation

flags.DEFINE_string("model", "wrn28_10", "Name of the network.")
flags.DEFINE_string("dataset", "cifar10", "Sets image shape and classes.")
flags.DEFINE_integer(
  "batch", None, "Examples on each device; default 8, for `input` 128.", 1
)
flags.DEFINE_string("dtype", "float32", "Type of the activations.")
flags.DEFINE_bool("remat", False, "Recompute activations.")
flags.DEFINE_integer("rounds", 5, "Number of times to measure each.", 1)
flags.DEFINE_list("m", None, "Default: --batch and its half, fourth, eighth.")
flags.DEFINE_enum(
  "size", "tiny", ("tiny", "small", "full"), "Runs of `methods`."
)
flags.DEFINE_string(
  "root", "runs/methods", "Directory of the runs of `methods`."
)
flags.DEFINE_integer("steps", 50, "Steps of a stretch of `loop`.", 1)
flags.DEFINE_integer("cores", 1, "CPU cores for `input`; 0: all.", 0)
flags.DEFINE_integer(
  "devices",
  None,
  "Devices of this host. A CPU is divided into as many; by default it is one,"
  " for `scale` 8.",
  1,
)
flags.DEFINE_string(
  "topology",
  None,
  "Slice of TPUs for which `compile` compiles, such as v5e:2x2.",
)
flags.DEFINE_string("json", None, "File to keep the measurement in, as JSON.")
cli.define_config()

_DEFAULT_CONFIG = "configs/digits.py:sam"  # of `loop` and `startup`


def main(argv: list[str]) -> None:
  """Run the sub-command and print its table."""
  name, options = " ".join(argv[1:]), flags.FLAGS
  logging.set_verbosity(logging.ERROR)
  prepare_machine(name, options.cores, options.devices)
  if options.topology:
    compiler.use_no_device()
  # Imported late: a mistyped flag is reported without waiting for JAX.
  from scripts import provenance
  from scripts.benchmark import commands, report
  from scripts.benchmark.startup import TrainingFailedError
  from scripts.benchmark.steps import DifferentResultsError
  from scripts.pages import measurements

  command = commands.find(name)
  commands.check_flags(name, options)
  file = cli.make_file("json", options.json) if options.json else None
  if name == "methods":
    compilation.keep_compiled_programs(None, options.root)
  try:
    facts, rows = command.measure(options)
  except (
    DifferentResultsError,
    TrainingFailedError,
    compiler.CompileError,
  ) as error:
    sys.exit(f"error: {error}")
  facts = {"benchmark": name, **facts, "device": report.device_kind()}
  made = provenance.describe(_command(options.json))
  if file:
    plain = [report.plain(row) for row in rows]
    measurements.write(file, {"made": made, "facts": facts, "rows": plain})
  print(f"{report.caption(facts)}.\n{provenance.show(made)}.\n{command.note}\n")
  print("\n".join(report.tables(command.view(rows))))


def _command(file: str | None) -> list[str]:
  """Return the words of this command without the file that it writes."""
  ours = ("--json", "-json", f"--json={file}", f"-json={file}", file)
  words = [word for word in sys.argv[1:] if word not in ours]
  return ["python", "-m", "scripts.benchmark", *words]


def parse_flags(argv: list[str]) -> list[str]:
  """Parse flags; sub-commands that train have a default config."""
  is_given = any(a.split("=")[0] in ("--config", "-config") for a in argv)
  trains = {"loop", "startup"} & set(argv)
  if not is_given and (trains or any(a.startswith("--config.") for a in argv)):
    argv = [argv[0], f"--config={_DEFAULT_CONFIG}", *argv[1:]]
  return cli.parse_flags(argv)


def prepare_machine(name: str, cores: int, devices: int | None) -> None:
  """Set the options that JAX reads when it starts."""
  compilation.choose_xla_flags()
  if name == "input" and cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  devices = devices or (8 if name == "scale" else None)
  if devices:  # of a CPU; accelerators are as many as there are
    flag = f"--xla_force_host_platform_device_count={devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


if __name__ == "__main__":
  app.run(lambda argv: cli.report_errors(main, argv), flags_parser=parse_flags)
