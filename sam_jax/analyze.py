"""Measure trained networks, and draw them side by side.

python -m sam_jax.analyze hessian --workdir=runs/sgd --workdir=runs/sam

Sub-commands:
  sharpness  Sharpness and m-sharpness for several radii.
  hessian    The Hessian's largest eigenvalues, and the density of all.
  landscape  The loss along lines, and on planes, through the parameters.
  measures   Many measures, and which of them ranks runs as their test errors.
  connectivity  Loss and error on paths between the weights of two runs.

RUN@STEP is the checkpoint of that step, RUN the newest one. Results are saved
in RUN/analysis/*.json one by one, and never computed twice: the same command
resumes where it was stopped. A result is the sharpness for one rho and m, a
whole Lanczos run (a stopped one starts again), one point of a landscape, or one
measure.
Pictures go to --output, and to TensorBoard as the run RUN/analysis of the first
run. Exit codes: 1, a checkpoint can't be read now; 2, a mistake that one line
describes; 130, Ctrl-C.
"""

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from etils import epath

from sam_jax import paths
from sam_jax.analysis import run_names
from sam_jax.config import cli

_WORKDIR = flags.DEFINE_multi_string(
  "workdir",
  [],
  "Directory of a run, RUN or RUN@STEP. Required; repeat it to compare.",
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory of the pictures; default: that of the first run."
)
_SPLIT = flags.DEFINE_enum(
  "split", "train", ["train", "test"], "Split; train has the training labels."
)
_EXAMPLES = flags.DEFINE_integer(
  "num_examples", 512, "Number of examples, the first of the split.", 1
)
_BATCH = flags.DEFINE_integer(
  "batch_size", None, "Examples at a time; default: as in training.", 1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of random vectors.", 0, 2**32 - 1)
_RHO = flags.DEFINE_list(
  "rho", "0.05,0.1,0.2,0.5", "Radii; the largest bounds the line of SAM."
)
_M = flags.DEFINE_list("m", "1,8,64", "Group sizes of the m-sharpness.")
_P = flags.DEFINE_float(
  "p", 2.0, "Norm of the neighborhood of the sharpness, up to inf.", 1
)
_ADAPTIVE = flags.DEFINE_bool(
  "adaptive", False, "Sharpness in the neighborhood of ASAM."
)
_ASCENT_STEPS = flags.DEFINE_integer(
  "ascent_steps", 1, "Ascent steps; the sharpness is the highest of them.", 1
)
_PROBES = flags.DEFINE_integer("probes", 2, "Number of Lanczos runs.", 1)
_STEPS = flags.DEFINE_integer("steps", 40, "Hessian products of each.", 1)
_ALONG = flags.DEFINE_multi_enum(
  "along",
  ["random", "sam", "plane"],
  ["random", "sam", "plane", "between"],
  "Directions of the landscape; between: from the first run to the second.",
)
_POINTS = flags.DEFINE_integer("points", 21, "Points of a line, or a side.", 2)
_REACH = flags.DEFINE_float(
  "reach", 1.0, "Largest distance along random lines, in filter norms."
)
_MEASURES = flags.DEFINE_multi_string(
  "measure",
  [],
  "Measure, as in average:sigma=0.01,adaptive; repeat it for more. Default: the"
  " common ones, see docs/analysis.md.",
)

_CURVES = flags.DEFINE_multi_enum(
  "curve",
  ["line"],
  ["line", "bezier"],
  "Paths of the connectivity; bezier: a curve that is trained for low loss.",
)
_CURVE_STEPS = flags.DEFINE_integer(
  "curve_steps", 200, "Training steps of the bezier curve.", 1
)

_STUDIES = ("sharpness", "hessian", "landscape", "measures", "connectivity")


def main(argv: list[str]) -> None:
  """Run the sub-command."""
  study = _check_arguments(argv)
  try:
    names = run_names.parse_names(_WORKDIR.value)
  except ValueError as error:
    cli.refuse(str(error))
  output = _output_directory(names[0].workdir)
  # Imported late: a wrong argument is reported without waiting for JAX.
  import jax

  from sam_jax.runs import logging as run_logging
  from sam_jax.runs.workdir import WorkdirLostError

  run_logging.show_on_stderr()
  try:
    _compare(study, names, output)
  except ValueError as error:
    cli.refuse(str(error))
  except WorkdirLostError:
    raise
  except OSError as error:
    cli.refuse(f"{error.filename} can't be read or written: {error.strerror}.")
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    cli.refuse(
      "The memory of the device is too small: try a smaller --batch_size or m."
    )
  except KeyboardInterrupt:
    print("\nStopped. The same command resumes here.", file=sys.stderr)
    sys.stdout.flush()
    os._exit(130)  # a normal exit would crash in XLA while it computes


def _compare(
  study: str, names: Sequence[run_names.RunName], output: epath.Path
) -> None:
  """Print the results of a study, and write its pictures."""
  from sam_jax.analysis import (
    compare,
    compare_connectivity,
    compare_measures,
    measure_names,
  )

  try:
    measures = measure_names.parse_measures(
      _MEASURES.value or measure_names.DEFAULT
    )
  except ValueError as error:
    cli.refuse(f"--measure: {error}")
  runs = compare.load_runs(
    names, study, _SPLIT.value, _EXAMPLES.value, _BATCH.value
  )
  for run in runs:
    cli.show(compare.describe_run(run))
  rhos, ms = _numbers(_RHO, float), _numbers(_M, int)
  if study == "sharpness":
    ball = (_P.value, _ADAPTIVE.value, _ASCENT_STEPS.value)
    found = compare.compare_sharpness(runs, output, rhos, ms, *ball)
  elif study == "hessian":
    found = compare.compare_spectra(
      runs, output, _PROBES.value, _STEPS.value, _SEED.value
    )
  elif study == "measures":
    found = compare_measures.compare_measures(
      runs, output, measures, _SEED.value
    )
  elif study == "connectivity":
    found = compare_connectivity.compare_connectivity(
      runs,
      output,
      _CURVES.value,
      _POINTS.value,
      _CURVE_STEPS.value,
      _SEED.value,
    )
  else:
    found = compare.compare_landscapes(
      runs,
      output,
      _ALONG.value,
      _POINTS.value,
      _REACH.value,
      rhos[-1],
      _SEED.value,
    )
  for line in found.lines:
    cli.show(line)
  compare.log_pictures(runs, found.pictures)
  for path in found.pictures:
    cli.show(f"Picture: {path}")


def _check_arguments(argv: Sequence[str]) -> str:
  """Return the sub-command, or refuse what is wrong."""
  study = argv[1] if len(argv) > 1 else ""
  if study not in _STUDIES:
    from sam_jax.config.schema import did_you_mean

    cli.refuse(f"{study!r} is no sub-command. {did_you_mean(study, _STUDIES)}")
  cli.check_arguments(argv[1:], "workdir")
  if not all(_WORKDIR.value):
    cli.refuse("--workdir is empty: name the directory of a run.")
  _numbers(_RHO, float)
  _numbers(_M, int)
  if not 0 < _REACH.value < math.inf:
    cli.refuse(f"--reach={_REACH.value} must be above 0, and finite.")
  if "between" in _ALONG.value and len(_WORKDIR.value) != 2:
    cli.refuse("--along=between needs two runs.")
  if study == "connectivity" and len(_WORKDIR.value) != 2:
    cli.refuse("connectivity needs two runs: --workdir=A --workdir=B.")
  if not importlib.util.find_spec("matplotlib"):
    cli.refuse("Pictures need matplotlib: pip install 'sam-jax[analysis]'.")
  return study


def _numbers(
  flag: flags.FlagHolder[Any], kind: Callable[[str], Any]
) -> list[Any]:
  """Return the numbers of a flag, ascending, or refuse them."""
  try:
    values = sorted({kind(value) for value in flag.value})
  except ValueError:
    values = []
  if not values or not 0 < values[0] <= values[-1] < math.inf:
    text = ",".join(flag.value)
    cli.refuse(f"--{flag.name}={text} must be numbers above 0, as in 1,2,4.")
  return values


def _output_directory(first: str) -> epath.Path:
  """Create the directory of pictures, or refuse it before anything else."""
  directory = _OUTPUT.value or paths.resolve(first).parent
  return cli.make_directory("output", directory)


if __name__ == "__main__":
  cli.run(main)
