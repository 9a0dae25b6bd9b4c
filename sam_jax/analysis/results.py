"""Finished runs as a table: read, group over seeds, compare with the paper."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from scipy import stats

from sam_jax.training import paper, workdir

# What a run ends with, by the name of its scalar.
ERROR, TOP_5_ERROR = "error_rate", "top_5_error_rate"


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """What a run wrote into its directory.

  Attributes:
    path: The directory.
    config: config.json; None if the run never started.
    metrics: The lines of metrics.jsonl.
    result: result.json; None if the run is not finished.
  """

  path: pathlib.Path
  config: dict[str, Any] | None
  metrics: list[dict[str, float]]
  result: dict[str, float] | None

  @functools.cached_property
  def fields(self) -> dict[str, Any]:
    """The config's fields by their dotted names, as hashable values."""
    return {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in workdir.flatten(self.config)
    }

  @property
  def state(self) -> str:
    """How far the run came, in words."""
    if self.result is not None:
      return "finished"
    if self.config is None:
      return "never started"
    step = max((line["step"] for line in self.metrics), default=0)
    return f"not finished, logged up to step {step}"

  def curve(self, tag: str) -> tuple[list[float], list[float]]:
    """A scalar over the epochs of a finished run.

    Args:
      tag: Its name in metrics.jsonl.

    Returns:
      Epochs and values.
    """
    steps_per_epoch = self.result["step"] / self.fields["num_epochs"]
    points = [
      (line["step"] / steps_per_epoch, line[tag])
      for line in self.metrics
      if tag in line
    ]
    return [x for x, _ in points], [y for _, y in points]

  def last(self, scalar: str = ERROR) -> float:
    """A test error of a finished run at its end, in percent."""
    return 100 * self.result[scalar]

  def best(self, scalar: str = ERROR) -> float:
    """The lowest test error on record, in percent."""
    _, values = self.curve(f"test/{scalar}")
    return min([self.last(scalar), *(100 * value for value in values)])


@dataclasses.dataclass(frozen=True)
class Group:
  """Finished runs that differ in nothing but the seed."""

  runs: tuple[RunRecord, ...]

  @property
  def fields(self) -> dict[str, Any]:
    """The fields that its runs have in common."""
    return experiment(self.runs[0])

  @property
  def paper(self) -> dict[str, str]:
    """The number of the paper that it stands for; empty strings if none."""
    config = self.runs[0].config
    return config.get("paper") or {"error": "", "top_5_error": ""}

  @property
  def is_papers_recipe(self) -> bool:
    """Whether the runs have the recipe behind that number."""
    return paper.is_papers_recipe(self.runs[0].config)

  def mean(self, scalar: str = ERROR) -> float:
    """Mean test error at the end, in percent."""
    return statistics.mean(run.last(scalar) for run in self.runs)


def read_runs(roots: Iterable[str | os.PathLike]) -> list[RunRecord]:
  """Reads every run below some directories.

  Args:
    roots: Directories.

  Returns:
    A record for each directory with a config.json, or with the log.txt of a
    run that failed before it wrote one.
  """
  runs = {}
  for root in roots:
    for directory, names, files in os.walk(root):
      if {"config.json", "log.txt"} & set(files):
        names.clear()  # there are no runs within runs
        path = pathlib.Path(directory)
        runs[path.resolve()] = _read_run(path)
      names.sort()
  return list(runs.values())


def group_over_seeds(runs: Iterable[RunRecord]) -> list[Group]:
  """Puts finished runs together that differ in nothing but the seed.

  Args:
    runs: Runs, finished or not.

  Returns:
    The groups, in the order of the fields in which they differ.
  """
  groups = {}
  for run in runs:
    if run.result is not None:
      key = frozenset(experiment(run).items())
      groups.setdefault(key, []).append(run)
  groups = [Group(tuple(members)) for members in groups.values()]
  fields = differing_fields(groups)
  return sorted(groups, key=lambda group: _sort_key(group, fields))


def experiment(run: RunRecord) -> dict[str, Any]:
  """The fields that decide what is measured; the seed only draws a sample."""
  return {
    name: value
    for name, value in run.fields.items()
    if name not in ("seed", *workdir.FREE_FIELDS)
    and not name.startswith("paper.")
  }


def differing_fields(groups: Sequence[Group]) -> list[str]:
  """Names of the fields in which groups differ, in the order of configs."""
  names = dict.fromkeys(name for group in groups for name in group.fields)
  return [
    name
    for name in names
    if len({group.fields.get(name) for group in groups}) > 1
  ]


def confidence_half_width(values: Sequence[float]) -> float:
  """Half the width of Student's 95% interval of a mean; nan for one value."""
  count = len(values)
  if count < 2:
    return math.nan
  quantile = stats.t.ppf(0.975, count - 1)
  return quantile * statistics.stdev(values) / math.sqrt(count)


def format_mean(values: Sequence[float]) -> str:
  """Returns "2.71 ± 0.10", or the value itself if there is only one."""
  mean = f"{statistics.mean(values):.2f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {confidence_half_width(values):.2f}"


def format_value(value: Any) -> str:
  """A field of a config, short."""
  if isinstance(value, float):
    return f"{value:g}"
  return "-" if value is None else str(value)


def label(group: Group, fields: Sequence[str]) -> str:
  """Names a group by some fields; the last part of each name is enough."""
  parts = [
    f"{name.split('.')[-1]} {format_value(group.fields.get(name))}"
    for name in fields
  ]
  return ", ".join(parts) or "all runs"


def table(groups: Sequence[Group]) -> list[str]:
  """Returns the lines of a Markdown table, with notes under it.

  Args:
    groups: The rows.
  """
  fields = differing_fields(groups)
  columns = [("error (%)", ERROR, "error")]
  if any(group.paper["top_5_error"] for group in groups):
    columns.append(("top-5 error (%)", TOP_5_ERROR, "top_5_error"))
  with_paper = any(group.paper["error"] for group in groups)

  header = [*fields, "seeds"]
  for title, _, _ in columns:
    header += [f"last {title}", f"best {title}"]
    header += [f"paper's {title}"] if with_paper else []
  rows = [header]
  for group in groups:
    row = [format_value(group.fields.get(name)) for name in fields]
    row.append(str(len(group.runs)))
    for _, scalar, papers in columns:
      row.append(format_mean([run.last(scalar) for run in group.runs]))
      row.append(format_mean([run.best(scalar) for run in group.runs]))
      row += [_papers_number(group, papers)] if with_paper else []
    rows.append(row)
  return [*_markdown(rows, len(fields)), "", *_notes(groups)]


def _papers_number(group: Group, name: str) -> str:
  number = group.paper[name]
  return number if not number or group.is_papers_recipe else f"{number} *"


def _notes(groups: Sequence[Group]) -> list[str]:
  """What the reader of a table has to know."""
  notes = ["Test errors: mean ± half-width of the 95% interval over seeds."]
  with_number = [group for group in groups if group.paper["error"]]
  cells = {
    f"table {group.paper['table']}: {group.paper['cell']}"
    for group in with_number
  }
  if cells:
    notes.append(f"The paper's numbers: {'; '.join(sorted(cells))}.")
  if not all(group.is_papers_recipe for group in with_number):
    notes.append("* These runs depart from the recipe of the paper's number.")
  return notes


def _sort_key(group: Group, fields: Sequence[str]) -> list[tuple]:
  values = [group.fields.get(name) for name in fields]
  return [
    (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))
    for value in values
  ]


def _markdown(rows: Sequence[Sequence[str]], num_fields: int) -> list[str]:
  """Aligns rows, numbers to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [
      cell.ljust(width) if i < num_fields else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append(f"| {' | '.join(cells)} |")
  rule = [
    "-" * width if i < num_fields else "-" * (width - 1) + ":"
    for i, width in enumerate(widths)
  ]
  lines.insert(1, f"| {' | '.join(rule)} |")
  return lines


def _read_run(path: pathlib.Path) -> RunRecord:
  """Reads a directory; what is missing or cut short is left out."""
  return RunRecord(
    path=path,
    config=_read_json(path / "config.json"),
    metrics=_read_lines(path / "metrics.jsonl"),
    result=_read_json(path / "result.json"),
  )


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None


def _read_lines(path: pathlib.Path) -> list[dict[str, float]]:
  lines = []
  text = path.read_text() if path.exists() else ""
  for line in text.splitlines():
    try:
      lines.append(json.loads(line))
    except ValueError:
      break  # a running process is writing it
  return lines
