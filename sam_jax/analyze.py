"""Looks at what runs have learnt, and draws them side by side.

python -m sam_jax.analyze hessian --workdir=runs/sgd --workdir=runs/sam

Sub-commands:
  sharpness  Sharpness and m-sharpness for several radii.
  hessian    The Hessian's largest eigenvalues, and the density of all.
  landscape  The loss along lines, and on planes, through the parameters.

RUN@STEP is the checkpoint of that step, RUN the newest one. Results go to
RUN/analysis/*.json piece by piece, and no piece is computed twice: the same
command goes on where it was stopped. A piece is the sharpness for one rho and
m, a whole Lanczos run (a stopped one starts again), or one point of a
landscape. Pictures go to --output, and to TensorBoard as the run RUN/analysis.
Exit codes: 2, a mistake that one line names; 130, Ctrl-C.
"""

import os
import pathlib
import re
import sys
import tempfile
from typing import Any

import numpy as np
from absl import app, flags

_WORKDIR = flags.DEFINE_multi_string(
  "workdir", [], "Directory of a run; may be given several times."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory of the pictures; default: that of the first run."
)
_SPLIT = flags.DEFINE_enum(
  "split", "train", ["train", "test"], "Examples; of train as labelled there."
)
_EXAMPLES = flags.DEFINE_integer(
  "num_examples", 512, "How many, the first of the split.", 1
)
_BATCH = flags.DEFINE_integer(
  "batch_size", None, "Examples at a time; default: as in training.", 1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of random vectors.", 0)
_RHO = flags.DEFINE_list(
  "rho", "0.05,0.1,0.2,0.5", "Radii; the largest is SAM's line's reach."
)
_M = flags.DEFINE_list("m", "1,8,64", "Group sizes of the m-sharpness.")
_P = flags.DEFINE_float(
  "p", 2.0, "Norm of sharpness's neighbourhood, to inf.", 1
)
_ADAPTIVE = flags.DEFINE_bool("adaptive", False, "Sharpness as ASAM has it.")
_ASCENT_STEPS = flags.DEFINE_integer(
  "ascent_steps", 1, "Of sharpness: the highest loss of so many counts.", 1
)
_PROBES = flags.DEFINE_integer("probes", 2, "Lanczos runs.", 1)
_STEPS = flags.DEFINE_integer("steps", 40, "Hessian products of each.", 1)
_ALONG = flags.DEFINE_multi_enum(
  "along",
  ["random", "sam", "plane"],
  ["random", "sam", "plane", "between"],
  "Directions of the landscape; between: from the first run to the second.",
)
_POINTS = flags.DEFINE_integer("points", 21, "Points of a line, or a side.", 2)
_REACH = flags.DEFINE_float("reach", 1.0, "Of random lines, in filter norms.")


def main(argv: list[str]) -> None:
  """Runs the sub-command."""
  name = check_arguments(argv)
  # Imported late: a wrong argument is refused without waiting for JAX.
  import jax

  from sam_jax.config.schema import ConfigError
  from sam_jax.datasets.catalog import DatasetError
  from sam_jax.runs import logging as run_logging

  run_logging.show_on_stderr()
  try:
    output = output_directory()
    subjects = [load(workdir, name) for workdir in _WORKDIR.value]
    check_same_data(subjects)
    show(subjects, STUDIES[name](subjects, output))
  except (ConfigError, DatasetError, ValueError) as error:
    refuse(str(error))
  except OSError as error:
    refuse(f"{error.filename} can't be read or written: {error.strerror}.")
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    refuse("The device's memory is too small: try a smaller --batch_size or m.")
  except KeyboardInterrupt:
    print("\nStopped. The same command goes on from here.", file=sys.stderr)
    sys.stdout.flush()
    os._exit(130)  # a normal exit takes XLA down while it computes: a crash


def check_arguments(argv: list[str]) -> str:
  """Returns the sub-command, or refuses what is wrong."""
  name = argv[1] if len(argv) > 1 else ""
  if name not in STUDIES:
    from sam_jax.config.schema import did_you_mean

    refuse(f"{name!r} is no sub-command. {did_you_mean(name, STUDIES)}")
  if argv[2:]:
    refuse(f"Unexpected arguments: {' '.join(argv[2:])}")
  if not all(_WORKDIR.value) or not _WORKDIR.value:
    refuse("--workdir is missing: name the directory of a run.")
  places = [resolve(workdir) for workdir in _WORKDIR.value]
  for workdir, place in zip(_WORKDIR.value, places, strict=True):
    if places.count(place) > 1:
      refuse(f"--workdir={workdir} is given twice.")
  numbers(_RHO, float)
  numbers(_M, int)
  if not 0 < _REACH.value < np.inf:
    refuse(f"--reach={_REACH.value} must be above 0.")
  if "between" in _ALONG.value and len(_WORKDIR.value) != 2:
    refuse("--along=between needs two runs.")
  return name


def numbers(flag: Any, kind: type) -> list[Any]:
  """The numbers of a flag, ascending; refuses others."""
  try:
    values = sorted({kind(value) for value in flag.value})
  except ValueError:
    values = []
  if not values or not 0 < values[0] <= values[-1] < np.inf:
    text = ",".join(flag.value)
    refuse(f"--{flag.name}={text} must be numbers above 0, as in 1,2,4.")
  return values


def load(name: str, study: str) -> Any:
  """Loads a run as the subject of a study."""
  from sam_jax.analysis import trained_run as runs
  from sam_jax.analysis.measure import Subject
  from sam_jax.analysis.result_cache import Pieces

  run = runs.load_run(*split_step(name))
  examples = run.examples(_SPLIT.value, _EXAMPLES.value)
  count = len(examples["label"])
  batch_size = choose_batch_size(run.config.batch_size, count)
  pieces = Pieces(run.workdir / "analysis" / f"{study}.json")
  split = {"train": "training", "test": "test"}[_SPLIT.value]
  print(f"{label(name)}: step {run.step:,}, {count:,} {split} examples")
  return Subject(label(name), run, examples, batch_size, pieces)


def choose_batch_size(of_training: int, num_examples: int) -> int:
  """--batch_size, or what suits the devices; no more than the examples."""
  import jax

  devices = jax.local_device_count()
  if _BATCH.value and _BATCH.value % devices:
    refuse(
      f"--batch_size={_BATCH.value} must be a multiple of the"
      f" {devices} devices, as is {-(-_BATCH.value // devices) * devices}."
    )
  wanted = min(_BATCH.value or of_training, num_examples)
  return -(-wanted // devices) * devices


def check_same_data(subjects: list[Any]) -> None:
  """Refuses runs that one picture can't compare."""
  first = subjects[0]
  for other in subjects[1:]:
    names = [s.run.config.dataset.name for s in (first, other)]
    if names[0] != names[1]:
      refuse(
        f"--workdir: {first.label} learnt {names[0]} and {other.label}"
        f" {names[1]}; analyse runs of one data set together."
      )
    if not all(
      np.array_equal(first.examples[key], other.examples[key])
      for key in first.examples
    ):
      print(
        f"{other.label}: not the same examples and labels as {first.label}",
        file=sys.stderr,
      )


def split_step(name: str) -> tuple[str, int | None]:
  """Splits RUN@STEP."""
  run, at, step = name.rpartition("@")
  if not at or os.path.exists(name):
    return name, None
  if not re.fullmatch(r"\d+", step):
    refuse(f"--workdir={name} must be RUN@STEP with a number, as in RUN@100.")
  return run, int(step)


def resolve(name: str) -> tuple[str, int | None]:
  """A run's path, however it is written, and its step."""
  run, step = split_step(name)
  return run.rstrip("/") if "://" in run else os.path.realpath(run), step


def label(name: str) -> str:
  """The last part of a run's path, if no other run has the same."""

  def shorten(name):
    run, step = split_step(name)
    return pathlib.PurePath(run).name + ("" if step is None else f"@{step}")

  names = [shorten(each) for each in _WORKDIR.value]
  short = shorten(name)
  return short if names.count(short) == 1 else name


def output_directory() -> pathlib.Path:
  """Where pictures go; it is made, and tried out before all else."""
  first, _ = split_step(_WORKDIR.value[0])
  if not _OUTPUT.value and "://" in first:
    refuse(f"--output is missing: --workdir={first} is no local directory.")
  path = pathlib.Path(_OUTPUT.value or pathlib.Path(first).absolute().parent)
  try:
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
  except OSError as error:
    refuse(
      f"--output={path} can't be written: {error.strerror}."
      " Choose another directory."
    )
  return path


def study_sharpness(
  subjects: list[Any], output: pathlib.Path
) -> list[pathlib.Path]:
  """Sharpness of all examples and of groups of m, for every rho."""
  from sam_jax.analysis import measure as studies
  from sam_jax.analysis import plots as analysis_plots

  rhos, ms = numbers(_RHO, float), numbers(_M, int)
  ball = (_P.value, _ADAPTIVE.value, _ASCENT_STEPS.value)
  found = {
    s.label: studies.measure_sharpness(s, rhos, ms, *ball) for s in subjects
  }
  for name, lines in found.items():
    for line, values in lines.items():
      pairs = zip(rhos, values, strict=True)
      text = "  ".join(f"{number(value)} (rho {rho:g})" for rho, value in pairs)
      print(f"{name}: sharpness, {line}: {text}")
  path = output / "sharpness.png"
  note = describe_examples(subjects) + describe_ball()
  analysis_plots.plot_sharpness(found, rhos, note, path)
  return [path]


def number(value: float) -> str:
  """Four digits, or words."""
  return f"{value:.4g}" if np.isfinite(value) else "not finite"


def describe_ball() -> str:
  """Says in a picture what is unlike SAM's own neighbourhood and ascent."""
  words = {
    f"p = {_P.value:g}": _P.value != 2,
    "adaptive": _ADAPTIVE.value,
    f"{_ASCENT_STEPS.value} ascent steps": _ASCENT_STEPS.value > 1,
  }
  return "".join(f", {word}" for word, is_odd in words.items() if is_odd)


def study_hessian(
  subjects: list[Any], output: pathlib.Path
) -> list[pathlib.Path]:
  """The largest eigenvalues, and the density of all."""
  from sam_jax.analysis import hessian
  from sam_jax.analysis import measure as studies
  from sam_jax.analysis import plots as analysis_plots

  arguments = (_PROBES.value, _STEPS.value, _SEED.value)
  found = {s.label: studies.measure_spectrum(s, *arguments) for s in subjects}
  for name, probes in found.items():
    for i, probe in enumerate(probes):
      print(f"{name}: probe {i}: {describe_cost(probe)}")
    top = hessian.top_eigenvalues(probes, 5)
    text = ", ".join(f"{t.value:.4g} (+-{t.residual:.1g})" for t in top)
    print(f"{name}: largest eigenvalues {text}")
    if len(top) == 5:
      print(f"{name}: first / fifth {top[0].value / top[4].value:.3g}")
  path = output / "hessian.png"
  analysis_plots.plot_spectra(found, describe_examples(subjects), path)
  return [path]


def describe_cost(probe: Any) -> str:
  """Time and memory of a probe, when it was computed."""
  device = "unknown"
  if probe.device_bytes is not None:
    device = f"{probe.device_bytes / 2**20:.1f} MiB"
  return (
    f"{probe.seconds:.1f} s, memory {device} on each device,"
    f" {probe.host_bytes / 2**20:.1f} MiB on the host"
  )


def study_landscape(
  subjects: list[Any], output: pathlib.Path
) -> list[pathlib.Path]:
  """Losses along every direction that --along names."""
  paths = []
  for kind in dict.fromkeys(_ALONG.value):
    paths.append(output / f"landscape_{kind}.png")
    draw = draw_plane if kind == "plane" else draw_lines
    draw(kind, subjects, paths[-1])
  return paths


def draw_plane(kind: str, subjects: list[Any], path: pathlib.Path) -> None:
  """Losses on a plane through each run."""
  from sam_jax.analysis import measure as studies
  from sam_jax.analysis import plots as analysis_plots

  distances = np.linspace(-_REACH.value, _REACH.value, _POINTS.value).tolist()
  found = {
    s.label: studies.losses_on_plane(s, distances, _SEED.value)
    for s in subjects
  }
  note = describe_examples(subjects)
  analysis_plots.plot_planes(found, distances, note, path)


def draw_lines(kind: str, subjects: list[Any], path: pathlib.Path) -> None:
  """Losses along a line through each run, or from one to the other."""
  from sam_jax.analysis import measure as studies
  from sam_jax.analysis import plots as analysis_plots

  start, end = subjects[0].label, subjects[-1].label
  ends, axis = {
    "random": (
      (-_REACH.value, _REACH.value),
      "Distance along a random direction (filter norms)",
    ),
    "sam": (
      (-numbers(_RHO, float)[-1], numbers(_RHO, float)[-1]),
      "Distance along SAM's perturbation (rho)",
    ),
    "between": (
      (0, 1),
      f"Part of the way from {start} (0) to {end} (1)",
    ),
  }[kind]
  distances = np.linspace(*ends, _POINTS.value).tolist()
  if kind == "between":
    first, second = subjects
    name = f"{first.label} to {second.label}"
    found = {name: studies.losses_between(first, second, distances)}
  else:
    found = {
      s.label: studies.losses_on_line(s, kind, distances, _SEED.value)
      for s in subjects
    }
  note = describe_examples(subjects)
  if kind == "between":
    note += "; batch statistics interpolated"
  analysis_plots.plot_lines(found, distances, axis, note, path)


def describe_examples(subjects: list[Any]) -> str:
  """Says in a picture what the losses are of."""
  count = len(subjects[0].examples["label"])
  split = {"train": "training", "test": "test"}[_SPLIT.value]
  return f"Losses of {count:,} {split} examples, in evaluation mode"


def show(subjects: list[Any], paths: list[pathlib.Path]) -> None:
  """Puts pictures into TensorBoard, beside the logs of each run."""
  from PIL import Image

  from sam_jax.runs.logging import MetricsWriter

  pictures = {p.stem: np.asarray(Image.open(p).convert("RGB")) for p in paths}
  for subject in subjects:
    writer = MetricsWriter(subject.pieces.path.parent, 0)
    for name, pixels in pictures.items():
      writer.image(subject.run.step, name, pixels)
    writer.close()
  for path in paths:
    print(f"Picture: {path}")


def refuse(message: str) -> None:
  """Says in one line why there can be no analysis."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; a wrong one is one clear line, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    refuse(str(error).splitlines()[0])


STUDIES = {
  "sharpness": study_sharpness,
  "hessian": study_hessian,
  "landscape": study_landscape,
}


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
