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

from sam_jax.config import paper_tables, schema
from sam_jax.runs import sweep_plan, workdir

# What a run ends with, by the name of its scalar.
ERROR, TOP_5_ERROR = "error_rate", "top_5_error_rate"

LABEL_FILE, NOISE_RATE = "dataset.label_file", "dataset.label_noise.rate"
FILE_NOISE_RATE = "dataset.label_file_noise_rate"


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
    """The config's fields by their dotted names, as hashable values.

    Labels that a network learnt from noisy ones have the rate of those.
    """
    fields = {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in workdir.flatten(self.config)
    }
    if fields.get(LABEL_FILE) and fields.get(FILE_NOISE_RATE):
      fields[NOISE_RATE] = fields[FILE_NOISE_RATE]
    return fields

  @property
  def state(self) -> str:
    """How far the run came, in words."""
    if self.result is not None:
      return "finished"
    if not self.path.exists():
      return "not begun"
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


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
  """Finished runs that differ in nothing but the seed."""

  runs: tuple[RunRecord, ...]

  @functools.cached_property
  def fields(self) -> dict[str, Any]:
    """The fields that its runs have in common."""
    return experiment(self.runs[0])

  @functools.cached_property
  def paper(self) -> paper_tables.Cell | None:
    """The number of the paper that it stands for, if there is one."""
    return paper_tables.find_cell(self.runs[0].config)

  @functools.cached_property
  def is_papers_recipe(self) -> bool:
    """True if the runs have the recipe behind that number."""
    config = self.runs[0].config
    return self.paper is not None and paper_tables.follows_recipe(
      config, self.paper
    )

  def mean(self, scalar: str = ERROR) -> float:
    """Mean test error at the end, in percent."""
    return statistics.mean(run.last(scalar) for run in self.runs)


def read_runs(roots: Iterable[str | os.PathLike]) -> list[RunRecord]:
  """Reads every run below some directories.

  Args:
    roots: Directories.

  Returns:
    A record for each directory with a config.json, or with the log.txt of a
    run that failed before it wrote one; and for each that a sweep has planned
    and not begun.

  Raises:
    ConfigError: The plan of a sweep is damaged.
  """
  runs, planned = {}, []
  for root in roots:
    for directory, names, files in os.walk(root):
      path = pathlib.Path(directory)
      if {"config.json", "log.txt"} & set(files):
        names.clear()  # there are no runs within runs
        runs[path.resolve()] = _read_run(path)
      else:
        planned += [path / name for name in sweep_plan.read_plan(path)]
      names.sort()
  for path in planned:
    runs.setdefault(path.resolve(), RunRecord(path, None, [], None))
  return list(runs.values())


def describe_unfinished(
  runs: Sequence[RunRecord], roots: Sequence[str | os.PathLike]
) -> list[str]:
  """Says which runs are missing from the table, and how far they are.

  Args:
    runs: All runs.
    roots: Where they were looked for.

  Returns:
    Lines; none if all runs are finished.
  """
  if not runs:
    return [f"There are no runs in {', '.join(map(str, roots))}."]
  unfinished = [run for run in runs if run.result is None]
  if not unfinished:
    return []
  finished = len(runs) - len(unfinished)
  lines = [f"{finished} of {len(runs)} runs are finished. Missing:"]
  for run in unfinished:
    log = run.path / "log.txt"
    where = f", see {log}" if log.exists() else ""
    lines.append(f"  {run.path}: {run.state}{where}")
  return lines


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
  """Return the fields that decide what is measured."""
  return schema.experiment(run.fields)


def differing_fields(groups: Sequence[Group]) -> list[str]:
  """Names of the fields in which groups differ, in the order of configs."""
  names = dict.fromkeys(name for group in groups for name in group.fields)
  return [
    name
    for name in names
    if len({group.fields.get(name) for group in groups}) > 1
  ]


def naming_fields(
  groups: Sequence[Group], ignored: Iterable[str] = ()
) -> list[str]:
  """As few of the differing fields as tell the groups apart.

  Others, such as a learning rate that goes with a network, follow from them.

  Args:
    groups: Finished runs, grouped over seeds.
    ignored: Fields to do without.
  """
  fields = [f for f in differing_fields(groups) if f not in ignored]
  fields.sort(key=lambda field: not field.endswith(".name"))
  kept, count = [], 1
  for field in fields:
    names = [*kept, field]
    values = {tuple(g.fields.get(name) for name in names) for g in groups}
    if len(values) > count:
      kept, count = names, len(values)
  return kept


def beaten(groups: Sequence[Group]) -> set[Group]:
  """Those that have a cell's recipe but are not the cell.

  Where the paper reports the best of several, of N and 2N epochs without SAM or
  of Mixup's alphas, it is the group with the lowest error.
  """
  rivals = {}
  for group in groups:
    if group.is_papers_recipe:
      rivals.setdefault(group.paper, []).append(group)
  best = {min(each, key=Group.mean) for each in rivals.values()}
  return {group for each in rivals.values() for group in each} - best


def method(group: Group) -> str:
  """Names a method as table 4 of the paper does."""
  fields = group.fields
  parts = ["Bootstrap"] if fields.get(LABEL_FILE) else []
  parts += ["Mixup"] if fields["augment.mixup_alpha"] else []
  parts += ["SAM"] if fields["sam.rho"] else []
  return " + ".join(parts if {"Mixup", "SAM"} & {*parts} else [*parts, "SGD"])


def confidence_half_width(values: Sequence[float]) -> float:
  """Half the width of Student's 95% interval of a mean; nan for one value."""
  count = len(values)
  if count < 2:
    return math.nan
  quantile = stats.t.ppf(0.975, count - 1)
  return quantile * statistics.stdev(values) / math.sqrt(count)


def format_value(value: Any) -> str:
  """A field of a config, short."""
  if isinstance(value, float):
    return f"{value:g}"
  return "-" if value is None else str(value)


def label(group: Group, fields: Sequence[str]) -> str:
  """Names a group by some fields: "model wrn28_10, rho 0.1"."""
  parts = [
    f"{_short(name)} {format_value(group.fields.get(name))}" for name in fields
  ]
  return ", ".join(parts) or "all runs"


def _short(field: str) -> str:
  """As much of a field's name as says what it is."""
  *_, parent, last = f".{field}".split(".")
  if last == "name":
    return parent
  return f"{parent}.{last}" if last in ("kind", "rate", "beta") else last


def _sort_key(group: Group, fields: Sequence[str]) -> list[tuple]:
  values = [group.fields.get(name) for name in fields]
  return [
    (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))
    for value in values
  ]


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
