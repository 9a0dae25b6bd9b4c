"""Train the runs that studies ask for, with the training loop of sam_jax."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from sam_jax import wording
from sam_jax.analysis import trained_run
from sam_jax.datasets.labels import write_labels
from sam_jax.reports import run_records
from sam_jax.runs import compilation, files, groups, workdir
from sam_jax.training import together
from sam_jax.training.hooks import DivergedError
from scripts.reproduce import measurements, transfer
from scripts.reproduce.levels import Level, gradients
from scripts.reproduce.runs import Measurement, Run

# Processor time of a run, in its directory.
_SECONDS = "seconds.json"


class StoppedError(Exception):
  """A signal asked to stop; the same command resumes."""


class Laboratory:
  """Trains and measures, each run in its own directory.

  Attributes:
    level: The size of the reproduction.
    root: Directory of all runs of the level.
  """

  def __init__(self, level: Level, root: epath.Path):
    """Take the directory; finished runs in it are not trained again."""
    self.level, self.root = level, root
    compilation.keep_compiled_programs(None, root)

  def workdir(self, run: Run) -> epath.Path:
    """Return the directory of a run."""
    return self.root / run.name

  def config(self, run: Run) -> ConfigDict:
    """Return the config of a run."""
    return config_of(self.level, run, self.root)

  def find(self, job: Run | Measurement) -> dict[str, Any] | None:
    """Return the result of a run or measurement that is finished, or None."""
    if isinstance(job, Measurement):
      return _read(self._file_of(job))
    path = self.workdir(job)
    if (failure := _read(path / "failure.json")) is not None:
      return failure
    result = workdir.read_result(path)
    if result is None:
      return None
    found = {
      "error_rate": result["error_rate"],
      **(_read(path / _SECONDS) or {}),
    }
    if dict(job.fields).get("eval_on_train"):
      error = run_records.read_run(path).last_logged("clean_train/error_rate")
      found["train_error_rate"] = error
    return found

  def do(
    self, wanted: Iterable[Run | Measurement], report: Callable[[str], None]
  ) -> None:
    """Train runs and make measurements, in an order that their names decide.

    Args:
      wanted: Runs and measurements; sources of others are finished.
      report: Shows a line of progress.

    Raises:
      StoppedError: A signal came; what is finished has results.
      ConfigError, DatasetError: A run can't start.
    """
    jobs = sorted(wanted, key=lambda job: job.key)
    batches = in_groups(
      self.level, [job for job in jobs if isinstance(job, Run)], self.root
    )
    for number, batch in enumerate(batches, start=1):
      report(
        f"group {number} of {len(batches)}: {wording.count(len(batch), 'run')}"
      )
      self._train(batch)
    measured = [job for job in jobs if isinstance(job, Measurement)]
    for number, job in enumerate(measured, start=1):
      report(f"measurement {number} of {len(measured)}: {job.kind}")
      self._measure(job)

  def _train(self, runs: Sequence[Run]) -> None:
    for run in runs:
      self._prepare(run)
    started = time.process_time()
    pairs = [(self.config(run), self.workdir(run)) for run in runs]
    errors = together.train_and_evaluate(pairs)
    for error in errors:
      if not isinstance(error, DivergedError):
        raise error
    share = (time.process_time() - started) / len(runs)
    unfinished = []
    for run in runs:
      path = self.workdir(run)
      if workdir.read_result(path) is not None:
        if not (path / _SECONDS).exists():
          files.write_json(path / _SECONDS, {"cpu_seconds": round(share, 2)})
      else:
        unfinished.append(run)
    if len(unfinished) > len(errors):
      raise StoppedError
    for run, error in zip(unfinished, errors, strict=True):
      failure = {"failed": str(error), "cpu_seconds": round(share, 2)}
      files.write_json(self.workdir(run) / "failure.json", failure)

  def _prepare(self, run: Run) -> None:
    """Write the files that a run reads, unless they are there."""
    fields = dict(run.fields)
    if "dataset.data_dir" in fields:
      transfer.write_images(
        self.root, self.level.seeds, self.level.tuning_seeds
      )
    if run.source is None or "dataset.label_file" not in fields:
      return
    file = labels_of(run.source, self.root)
    if not file.exists():
      source = trained_run.load_run(self.workdir(run.source))
      write_labels(file, trained_run.predicted_labels(source))

  def _measure(self, job: Measurement) -> None:
    started = time.process_time()
    measure = getattr(measurements, job.kind)
    found = measure(self.workdir(job.run), job.epoch)
    found["cpu_seconds"] = round(time.process_time() - started, 2)
    files.write_json(self._file_of(job), found)

  def _file_of(self, job: Measurement) -> epath.Path:
    at = "" if job.epoch is None else f"_{job.epoch}"
    return self.workdir(job.run) / f"{job.kind}{at}.json"


def in_groups(
  level: Level, runs: Sequence[Run], root: epath.Path
) -> list[list[Run]]:
  """Return groups of runs that one program trains side by side."""
  by_program: dict[str, list[Run]] = {}
  for run in runs:
    program = groups.program_of(config_of(level, run, root))
    by_program.setdefault(program, []).append(run)
  size = level.together
  return [
    each[i : i + size]
    for each in by_program.values()
    for i in range(0, len(each), size)
  ]


def config_of(level: Level, run: Run, root: epath.Path) -> ConfigDict:
  """Return the config of a run, with the paths of what it starts from."""
  fields: Mapping[str, Any] = dict(run.fields)
  if run.source and "dataset.label_file" in fields:
    path = os.fspath(labels_of(run.source, root))
    fields = {**fields, "dataset.label_file": path}
  elif run.source:
    fields = {**fields, "pretrained": os.fspath(root / run.source.name)}
  if "dataset.data_dir" in fields:
    path = os.fspath(root / fields["dataset.data_dir"])
    fields = {**fields, "dataset.data_dir": path}
  return level.make_config(fields)


def labels_of(run: Run, root: epath.Path) -> epath.Path:
  """Return the file of the labels that a run predicts."""
  return root / "labels" / f"{run.name}.npy"


def describe_plan(
  level: Level,
  wanted: Iterable[Run | Measurement],
  root: epath.Path,
) -> str:
  """Return the number of runs, programs and gradients, and the time."""
  jobs = list(wanted)
  runs = [job for job in jobs if isinstance(job, Run)]
  total = sum(gradients(config_of(level, run, root)) for run in runs)
  programs = len(in_groups(level, runs, root))
  seconds = total / level.speed
  return (
    f"{len(runs):5} runs {len(jobs) - len(runs):5} measurements"
    f" {programs:5} programs {total / 1e6:9.2f} million gradients"
    f" {seconds / 60:8.1f} minutes"
  )


def _read(file: epath.Path) -> dict[str, Any] | None:
  return json.loads(file.read_text()) if file.exists() else None
