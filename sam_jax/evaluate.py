"""Evaluate a trained network, write its predictions, and export it.

python -m sam_jax.evaluate --workdir=runs/a
python -m sam_jax.evaluate --workdir=runs/a@3900 --split=train
python -m sam_jax.evaluate --workdir=runs/a --data=photos/new
python -m sam_jax.evaluate --workdir=runs/a --data=cifar10_c --baseline=runs/b
python -m sam_jax.evaluate --workdir=runs/a --split=none
  --export=safetensors,stablehlo

Prints the error, the negative log-likelihood, the expected calibration error, a
table of the classes and the confusion matrix. Writes them with all predictions
to RUN/evaluation/DATA_SPLIT_STEP, or to --output. Exit codes: 1, a checkpoint
can't be read now, or no result written; 2, a mistake that one line describes.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags
from etils import epath

from sam_jax.config import cli
from sam_jax.datasets import corrupted
from sam_jax.runs import logging as run_logging

_NO_SPLIT = "none"
_FORMATS = ("safetensors", "stablehlo")

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "The run, RUN, or RUN@STEP for a checkpoint. Required."
)
_DATA = flags.DEFINE_string(
  "data",
  None,
  "Name of a data set, such as imagenet_v2, imagenet_real or cifar10_c, or path"
  " of images as for image_folder; default: the run's.",
)
_BASELINE = flags.DEFINE_string(
  "baseline",
  None,
  "RUN or RUN@STEP, by whose errors those on corrupted images are divided.",
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Directory of the data sets; default: the run's."
)
_SPLIT = flags.DEFINE_enum(
  "split",
  None,
  ["test", "validation", "train", _NO_SPLIT],
  "Examples: the test set, the training examples that were held out, the"
  " others, or none. Default: those on which the run was evaluated.",
)
_BATCH = flags.DEFINE_integer(
  "batch_size", None, "Examples at a time; default: as in training.", 1
)
_EMA = flags.DEFINE_bool(
  "ema", True, "Take the running averages of the parameters if there are any."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory of the results; default: one in the run's."
)
_EXPORT = flags.DEFINE_list(
  "export",
  [],
  "Export the network: safetensors for its arrays, stablehlo for its program.",
)


@cli.ends_at_interrupt
def main(argv: list[str]) -> None:
  """Evaluate and export the run that the flags name."""
  cli.check_arguments(argv, "workdir")
  for name in _EXPORT.value:
    if name not in _FORMATS:
      cli.refuse(f"--export={name} must be of {', '.join(_FORMATS)}.")
  if _DATA.value == "":  # of an unset variable of a shell
    cli.refuse("--data= is empty: name a data set or images, or leave it out.")
  if _SPLIT.value == _NO_SPLIT and not _EXPORT.value:
    cli.refuse("--split=none evaluates nothing: name a split, or --export.")
  is_corrupted = _DATA.value in corrupted.NAMES
  if _BASELINE.value and not is_corrupted:
    cli.refuse(
      f"--baseline={_BASELINE.value} needs corrupted images: --data="
      f"{' or '.join(corrupted.NAMES)}."
    )
  run_logging.show_on_stderr()
  # Import late: wrong flags are reported without waiting for JAX.
  import jax

  run = _load(str(_WORKDIR.value), "workdir")
  baseline = _load(_BASELINE.value, "baseline") if _BASELINE.value else None
  if _OUTPUT.value:  # before any data are read
    cli.make_directory("output", _OUTPUT.value)
  try:
    if _EXPORT.value:
      _export(run)
    if _SPLIT.value == _NO_SPLIT:
      return
    if is_corrupted:
      _evaluate_corrupted(run, baseline)
    else:
      _evaluate(run)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    cli.refuse(
      "The memory of the device is too small: try a smaller --batch_size."
    )


def _load(text: str, flag: str) -> Any:
  """Load RUN or RUN@STEP; errors name the flag."""
  from sam_jax.analysis import run_names
  from sam_jax.analysis.trained_run import load_run

  try:
    (name,) = run_names.parse_names([text])
    return load_run(*name, use_ema=_EMA.value)
  except ValueError as error:
    cli.refuse(str(error).replace("--workdir", f"--{flag}"))


def _evaluate(run: Any) -> None:
  """Print and write the evaluation of a run."""
  from sam_jax.evaluation import data, measures, report

  found = data.select(
    run,
    _DATA.value,
    _SPLIT.value,
    data_dir=_DATA_DIR.value,
    batch_size=_BATCH.value,
  )
  name = f"{found.name}_{found.split}_{run.step}"
  directory = _directory(run, name, found.path)
  batches = run.outcomes(found.dataset, found.split_of_dataset)
  about = {
    "run": str(run.workdir),
    "step": run.step,
    "weights": _weights(run),
    "data": found.name,
    "path": found.path,
    "split": found.split,
  }
  result = report.Report(
    about,
    run.class_names,
    measures.collect(batches),
    found.examples,
    found.has_labels,
  )
  _report(result, directory)


def _evaluate_corrupted(run: Any, baseline: Any) -> None:
  """Print and write the errors of a run on corrupted images."""
  from sam_jax.evaluation import corruptions, data

  name = str(_DATA.value)
  images = data.select_corrupted(
    run, name, _SPLIT.value, data_dir=_DATA_DIR.value
  )
  if baseline:
    data.check_classes(baseline, images.spec, str(images.path.parent))
  directory = _directory(run, f"{name}_{run.step}")
  about = {
    "run": str(run.workdir),
    "step": run.step,
    "weights": _weights(run),
    "data": name,
    "path": str(images.path),
  }
  rows = corruptions.measure(run, images, _BATCH.value)
  rows_of_baseline: list[Any] = []
  if baseline:
    about |= {"baseline": f"{baseline.workdir} at step {baseline.step}"}
    rows_of_baseline = corruptions.measure(baseline, images, _BATCH.value)
  result = corruptions.CorruptionReport(about, rows, rows_of_baseline)
  _report(result, directory)


def _report(result: Any, directory: epath.Path) -> None:
  """Print the tables of a report, and write its files."""
  cli.show("\n".join(result.lines()))
  with _writing(directory):
    written = result.write(directory)
  _print_files(written)


def _export(run: Any) -> None:
  """Write the files of --export."""
  from sam_jax.evaluation import export
  from sam_jax.runs import files

  directory = _directory(run, f"export_{run.step}")
  written = []
  for name, serialize in (
    ("safetensors", export.to_safetensors),
    ("stablehlo", export.to_stablehlo),
  ):
    if name in _EXPORT.value:
      written.append(directory / f"network.{name}")
      content = serialize(run)
      with _writing(directory):
        files.write_atomically(written[-1], content)
  _print_files(written)


def _directory(run: Any, name: str, path: str | None = None) -> epath.Path:
  """Return the directory of results: --output, or one in the run's.

  Args:
    run: The run.
    name: Name of the directory, which a number is appended to if it has the
      results for images of another path.
    path: Path of the images, if they are files.
  """
  from sam_jax.evaluation import report

  if _OUTPUT.value:
    return cli.make_directory("output", _OUTPUT.value)
  if not _EMA.value and run.config.ema.decay:
    name += "_without_ema"
  directory, number = run.workdir / "evaluation" / name, 1
  while report.is_of_other_images(directory, path):
    number += 1
    directory = directory.parent / f"{name}_{number}"
  return cli.make_directory("output", directory)


@contextlib.contextmanager
def _writing(directory: epath.Path) -> Iterator[None]:
  """End with one line and exit code 1 if a disk is full, or a bucket fails."""
  from sam_jax import buckets, paths

  try:
    yield
  except Exception as error:
    if not isinstance(error, OSError) and not buckets.is_error_of_bucket(error):
      raise
    cause = paths.describe_error(error)
    sys.exit(f"error: --output={directory} can't be written: {cause}.")


def _weights(run: Any) -> str:
  if run.config.ema.decay and _EMA.value:
    return "running averages of the parameters"
  return "its parameters"


def _print_files(written: list[epath.Path]) -> None:
  for path in written:
    cli.show(f"Wrote {path}")


if __name__ == "__main__":
  cli.run(main)
