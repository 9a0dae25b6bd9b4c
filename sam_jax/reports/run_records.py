"""Read what runs wrote into their directories, damaged ones too."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from sam_jax import paths, wording
from sam_jax.config import schema
from sam_jax.config.fields import FIELDS
from sam_jax.runs import sweep, workdir

# Scalars of an evaluation.
ERROR, TOP_5_ERROR = "error_rate", "top_5_error_rate"

LABEL_FILE, NOISE_RATE = "dataset.label_file", "dataset.label_noise.rate"
_FILE_NOISE_RATE = "dataset.label_file_noise_rate"

# A directory with one of these files is the directory of a run.
_RUN_FILES = {"config.json", "log.txt", "metrics.jsonl", "result.json"}

# Fields that every config.json must have. Others may be missing: a version of
# this code without the field wrote the file.
_REQUIRED_FIELDS = ("model.name", "dataset.name", "num_epochs")


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """The files of a run.

  Attributes:
    path: Directory of the run, local or on gs://.
    config: Content of config.json; None if there is none, or a damaged one.
    metrics: Lines of metrics.jsonl; each has a step.
    result: Content of result.json; None if the run is not finished, or if the
      result or the config is damaged.
    problems: What is damaged, one phrase for each file; or that the directory
      can't be read.
  """

  path: epath.Path
  config: dict[str, Any] | None = None
  metrics: Sequence[Mapping[str, float]] = ()
  result: Mapping[str, float] | None = None
  problems: tuple[str, ...] = ()

  @functools.cached_property
  def fields(self) -> dict[str, Any]:
    """The fields of the config by their dotted names, as hashable values.

    Fields that the config lacks have their defaults. Labels that a network
    predicted have the noise rate of the labels that it was trained on.
    """
    own = dict(schema.flatten(self.config or {}))
    flat = {**schema.default_fields(), **own}
    fields = {_printable(k): _hashable(v) for k, v in flat.items()}
    if fields[LABEL_FILE] and fields[_FILE_NOISE_RATE]:
      fields[NOISE_RATE] = fields[_FILE_NOISE_RATE]
    return fields

  @property
  def state(self) -> str:
    """Progress of the run in words."""
    if self.result is not None:
      return "; ".join(["finished", *self.problems])
    if self.problems:
      return f"damaged: {'; '.join(self.problems)}"
    if not self.path.exists():
      return "not started"
    if self.config is None:
      return "failed before its first step"
    step = max((line["step"] for line in self.metrics), default=0)
    return f"not finished, logged up to step {step}"

  def curve(self, tag: str) -> dict[float, float]:
    """Return a scalar of a finished run by epoch.

    Args:
      tag: Name of the scalar in metrics.jsonl.
    """
    assert self.result, "the run is not finished"
    steps_per_epoch = self.result["step"] / self.fields["num_epochs"]
    return {
      line["step"] / steps_per_epoch: line[tag]
      for line in self.metrics
      if tag in line
    }

  def last_logged(self, tag: str) -> float:
    """Return the last value of a scalar in metrics.jsonl, or nan."""
    values = (line[tag] for line in reversed(self.metrics) if tag in line)
    return next(values, math.nan)

  def last(self, scalar: str = ERROR) -> float:
    """Return a test error at the end of a finished run, in percent, or nan."""
    assert self.result, "the run is not finished"
    return 100 * self.result.get(scalar, math.nan)

  def best(self, scalar: str = ERROR) -> float:
    """Return the lowest test error of all evaluations, in percent."""
    values = self.curve(f"test/{scalar}").values()
    return min([self.last(scalar), *(100 * value for value in values)])


def read_runs(
  roots: Iterable[epath.PathLike],
) -> tuple[list[RunRecord], list[str]]:
  """Read every run below some directories; links to directories are ignored.

  Args:
    roots: Directories, local or on gs://.

  Returns:
    A record for each directory with a file of a run, for each directory that
    can't be read, and for each run that a sweep has planned and not started;
    and a line for each plan of a sweep that is damaged.
  """
  runs: dict[str, RunRecord] = {}
  planned: list[epath.Path] = []
  problems: list[str] = []
  pending = [paths.resolve(root) for root in roots][::-1]
  while pending:
    path = pending.pop()
    try:
      if not paths.is_remote(path):
        # Fail here if no entry can be accessed: all would seem to be files.
        os.stat(os.path.join(path, "."))
      children = sorted(path.iterdir())
      names = {child.name for child in children}
      is_run = bool(_RUN_FILES & names)
      # There are no runs within runs.
      directories = [] if is_run else [c for c in children if _is_directory(c)]
    except Exception as error:  # gs:// clients raise errors of their own
      reason = f"the directory can't be read: {paths.describe_error(error)}"
      runs[_identity(path)] = RunRecord(path, problems=(reason,))
      continue
    if is_run:
      runs[_identity(path)] = read_run(path)
      continue
    pending += directories[::-1]
    try:
      planned += [path / name for name in sweep.read_names(path)]
    except schema.ConfigError as error:
      problems.append(f"{error} Runs that were not started are not listed.")
  for path in planned:
    runs.setdefault(_identity(path), RunRecord(path))
  return list(runs.values()), problems


def read_run(path: epath.PathLike) -> RunRecord:
  """Read the directory of a run; the record names the files that are damaged.

  Args:
    path: The directory, local or on gs://.
  """
  path = epath.Path(path)
  problems: list[str] = []
  config = _read_config(path / "config.json", problems)
  is_missing = config is None and not problems
  result = _read_result(path, problems)
  metrics = _read_metrics(path / "metrics.jsonl", result is not None, problems)
  if is_missing and (metrics or result):
    problems.append("config.json is missing")
  return RunRecord(
    path, config, metrics, result if config else None, tuple(problems)
  )


def describe_unfinished(
  runs: Sequence[RunRecord], roots: Sequence[epath.PathLike]
) -> list[str]:
  """Return lines about runs that are missing from the table, or damaged.

  Args:
    runs: All runs.
    roots: Directories that were searched.

  Returns:
    The lines; none if all runs are finished and whole.
  """
  if not runs:
    return [f"There are no runs in {', '.join(map(str, roots))}."]
  finished = sum(run.result is not None for run in runs)
  part = wording.part(finished, len(runs), "run")
  lines = [f"{part} finished. Missing or damaged:"]
  for run in runs:
    if run.result is None or run.problems:
      log = run.path / "log.txt"
      is_logged = run.result is None and os.path.exists(log)
      hint = f", see {log}" if is_logged else ""
      lines.append(f"- {run.path}: {run.state}{hint}")
  return lines if len(lines) > 1 else []


def _read_config(
  file: epath.Path, problems: list[str]
) -> dict[str, Any] | None:
  """Return a config with values of the right types, or None and a problem."""
  config = _read_object(file, problems)
  if config is None:
    return None
  flat = dict(schema.flatten(config))
  wrong = [name for name in _REQUIRED_FIELDS if name not in flat]
  wrong += [name for name, value in flat.items() if not _is_valid(name, value)]
  if wrong:
    problems.append(f"{file.name} has no valid {', '.join(wrong[:3])}")
    return None
  return config


def _is_valid(name: str, value: Any) -> bool:
  """Return False if a value has another type than its field in the schema.

  Rules are not checked: those of another version may have been others.
  """
  field = schema.field_of(name)
  if name == "num_epochs":
    return workdir.is_number(value) and value >= 1
  if field is None:  # of another version, unless it contradicts the schema
    return not any(
      known.startswith(f"{name}.")
      or (name.startswith(f"{known}.") and FIELDS[known].kind is not dict)
      for known in FIELDS
    )
  if field.kind is dict:
    return name not in FIELDS
  if value is None:
    return field.is_optional
  if field.kind in (int, float):
    return workdir.is_number(value) or (field.may_be_inf and value == math.inf)
  return isinstance(value, list if field.kind is tuple else field.kind)


def _read_result(
  path: epath.Path, problems: list[str]
) -> dict[str, float] | None:
  """Return the result of a run, or None; add a problem if it is damaged."""
  try:
    return workdir.read_result(path)
  except schema.ConfigError as error:
    problems.append(str(error))
  except Exception as error:  # gs:// clients raise errors of their own
    problems.append(f"result.json can't be read: {paths.describe_error(error)}")
  return None


def _read_metrics(
  file: epath.Path, is_finished: bool, problems: list[str]
) -> list[dict[str, float]]:
  """Return the lines that are whole; the others are a problem."""
  known = len(problems)
  data = _read(file, problems)
  if data is None:
    if is_finished and len(problems) == known:
      problems.append(f"{file.name} is missing")
    return []
  text = data.decode(errors="replace")
  lines = [_parse_line(line) for line in text.split("\n") if line.strip()]
  whole = [line for line in lines if line is not None]
  damaged = [i for i, line in enumerate(lines, start=1) if line is None]
  # The running process may be writing the last line.
  if damaged and (is_finished or damaged != [len(lines)]):
    problems.append(
      f"{file.name}: {wording.part(len(damaged), len(lines), 'line')}"
      f" damaged, the first is line {damaged[0]}"
    )
  return whole


def _parse_line(text: str) -> dict[str, float] | None:
  """Return the finite numbers of a line, or None without a step."""
  line = _parse(text)
  if not isinstance(line, dict) or not workdir.is_number(line.get("step")):
    return None
  return {k: v for k, v in line.items() if workdir.is_number(v)}


def _read_object(
  file: epath.Path, problems: list[str]
) -> dict[str, Any] | None:
  """Return the JSON object in a file, or None if there is none."""
  data = _read(file, problems)
  if data is None:
    return None
  value = _parse(data)
  if not isinstance(value, dict):
    problems.append(f"{file.name} is not a JSON object")
    return None
  return value


def _read(file: epath.Path, problems: list[str]) -> bytes | None:
  """Return the content of a file, or None if it is missing or a problem."""
  try:
    # Reading a named pipe, a file for epath, would wait forever.
    if os.path.exists(file) and not os.path.isfile(file):
      problems.append(f"{file.name} is not a file")
      return None
    return file.read_bytes()
  except FileNotFoundError:
    return None
  except Exception as error:  # gs:// clients raise errors of their own
    problems.append(f"{file.name} can't be read: {paths.describe_error(error)}")
    return None


def _is_directory(path: epath.Path) -> bool:
  return not os.path.islink(path) and path.is_dir()


def _identity(path: epath.Path) -> str:
  """Return the same text for all paths of a directory."""
  return os.fspath(path) if paths.is_remote(path) else os.path.realpath(path)


def _parse(text: str | bytes) -> Any:
  """Return the value of a JSON text, or None if it is none."""
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    return None


def _hashable(value: Any) -> Any:
  """Return a list as a tuple, and other containers as text."""
  if isinstance(value, list):
    return tuple(map(_hashable, value))
  is_text = isinstance(value, str | dict)
  return _printable(str(value)) if is_text else value


def _printable(text: str) -> str:
  """Escape halves of surrogate pairs, which JSON allows and UTF-8 does not."""
  return text.encode(errors="backslashreplace").decode()
