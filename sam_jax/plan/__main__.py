"""Tell what a config needs on a TPU slice, without a TPU.

python -m sam_jax.plan --config=configs/cifar.py --topology=v5e:2x4

libtpu (pip install 'sam-jax[plan]') compiles the training step, the same step
without SAM, and the augmentation for the slice. The plan says if they fit, and
what they cost: memory, FLOPs, traffic, collectives, and so the shortest time of
the run. No program runs. Exit codes: 0, the step fits; 1, it does not fit, or
libtpu fails; 2, a mistake that one line describes; 130, Ctrl-C.
"""

import concurrent.futures
import os
import pathlib
import shutil
import sys
import tempfile
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict

from sam_jax.config import cli
from sam_jax.plan import chips

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string(
  "topology",
  None,
  "The slice: chip and sides, such as v5e:8x8 or v4:4x4x4. Required.",
)
_PROGRAMS = flags.DEFINE_list(
  "programs",
  None,
  "Programs to compile, of sam, sgd and augment; default: all, sgd alone if the"
  " config has no SAM. Each takes seconds to minutes.",
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "New directory to keep the programs in, as text (HLO)."
)


@cli.ends_at_interrupt
def main(argv: list[str]) -> None:
  """Print the plan that the flags ask for."""
  cli.check_arguments(argv, "config", "topology")
  try:
    tpu = chips.parse_topology(_TOPOLOGY.value or "")
  except ValueError as error:
    cli.refuse(str(error))
  # Imported late: a wrong topology is reported without waiting for Optax.
  import jax

  from sam_jax.plan import compiler
  from sam_jax.training import build

  jax.config.update("jax_platforms", "cpu")
  config = build.validate(_CONFIG.value, tpu.num_devices)
  names = _programs(config)
  try:
    compiler.check_libtpu()
  except compiler.CompileError as error:
    cli.refuse(str(error))
  if _OUTPUT.value:
    directory = pathlib.Path(cli.make_directory("output", _OUTPUT.value))
    # Programs of another plan would be taken for those of this one.
    if any(directory.iterdir()):
      cli.refuse(f"--output={directory} is not empty: name a new directory.")
    _plan(config, tpu, names, directory)
  else:
    with tempfile.TemporaryDirectory() as temporary:
      _plan(config, tpu, names, pathlib.Path(temporary))


def _programs(config: ConfigDict) -> list[str]:
  """Return the programs to compile, or refuse those that are none."""
  from sam_jax.plan import programs

  known = programs.programs_of(config)
  names = _PROGRAMS.value or known
  if not set(names) <= set(known) or set(names) == {programs.AUGMENT}:
    cli.refuse(
      f"--programs={','.join(names)} must be some of {','.join(known)}, and"
      f" not {programs.AUGMENT} alone."
    )
  return [name for name in known if name in names]


def _plan(
  config: ConfigDict,
  tpu: chips.Slice,
  names: list[str],
  directory: pathlib.Path,
) -> None:
  """Compile the programs, as many at a time as there are cores, and report."""
  from sam_jax.plan import compiler, report
  from sam_jax.plan.estimates import Plan

  pool = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
  futures = {
    name: pool.submit(
      compiler.compile_program, name, config, tpu, directory / name
    )
    for name in names
  }
  try:
    compiled = {name: future.result() for name, future in futures.items()}
  except compiler.CompileError as error:
    _end(directory, f"error: {error}", 1)
  except KeyboardInterrupt:
    _end(directory, "\nStopped.", 130)
  plan = Plan(config, tpu, compiled)
  cli.show(report.report(plan))
  if not plan.fits:
    sys.exit(1)


def _end(directory: pathlib.Path, message: str, code: int) -> NoReturn:
  """End this process now; those of programs end without it."""
  print(message, file=sys.stderr, flush=True)
  if not _OUTPUT.value:
    shutil.rmtree(directory, ignore_errors=True)
  os._exit(code)


if __name__ == "__main__":
  cli.run(main)
