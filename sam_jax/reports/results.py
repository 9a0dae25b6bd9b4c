"""Group finished runs over seeds, compare the groups and name them."""

import dataclasses
import functools
import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from scipy import special

from sam_jax.config import paper_tables, schema
from sam_jax.reports.run_records import ERROR, LABEL_FILE, RunRecord

NOTES = "notes"


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
  """Finished runs that differ only in the seed."""

  runs: tuple[RunRecord, ...]

  @functools.cached_property
  def fields(self) -> dict[str, Any]:
    """The fields that its runs have in common."""
    return experiment(self.runs[0])

  @functools.cached_property
  def paper(self) -> paper_tables.Cell | None:
    """The number of the paper that it stands for, if there is one."""
    return paper_tables.find_cell(self.runs[0].config or {})

  @functools.cached_property
  def follows_paper(self) -> bool:
    """True if the runs have the recipe behind that number."""
    return self.paper is not None and paper_tables.follows_recipe(
      self.runs[0].config or {}, self.paper
    )

  def mean(self, scalar: str = ERROR) -> float:
    """Return the mean test error at the end, in percent."""
    return statistics.mean(run.last(scalar) for run in self.runs)


def group_over_seeds(runs: Iterable[RunRecord]) -> list[Group]:
  """Group finished runs that differ only in the seed.

  Args:
    runs: Runs, finished or not.

  Returns:
    The groups, in the order of the fields in which they differ.
  """
  members: dict[frozenset[tuple[str, Any]], list[RunRecord]] = {}
  for run in runs:
    if run.result is not None:
      key = frozenset(experiment(run).items())
      members.setdefault(key, []).append(run)
  groups = [Group(tuple(each)) for each in members.values()]
  fields = differing_fields(groups)
  return sorted(groups, key=lambda group: _sort_key(group, fields))


def experiment(run: RunRecord) -> dict[str, Any]:
  """Return the fields that tell experiments apart, with the notes of the user.

  Notes decide no result, but runs of different code may have equal configs.
  """
  return schema.experiment(run.fields) | {NOTES: run.fields[NOTES]}


def differing_fields(groups: Sequence[Group]) -> list[str]:
  """Return the fields in which groups differ, in the order of configs."""
  names = dict.fromkeys(name for group in groups for name in group.fields)
  return [
    name
    for name in names
    if len({group.fields.get(name) for group in groups}) > 1
  ]


def distinguishing_fields(
  groups: Sequence[Group], ignored: Iterable[str] = ()
) -> list[str]:
  """Return as few of the differing fields as tell the groups apart.

  Others, such as a learning rate that goes with a network, follow from them.

  Args:
    groups: Finished runs, grouped over seeds.
    ignored: Fields to do without.
  """
  fields = [f for f in differing_fields(groups) if f not in ignored]
  fields.sort(key=lambda field: not field.endswith(".name"))
  kept: list[str] = []
  count = 1
  for field in fields:
    names = [*kept, field]
    values = {tuple(g.fields.get(name) for name in names) for g in groups}
    if len(values) > count:
      kept, count = names, len(values)
  return kept


def runners_up(groups: Sequence[Group]) -> set[Group]:
  """Return groups whose number of the paper belongs to a better group.

  Where the paper reports the best of several recipes, of N and 2N epochs
  without SAM or of several alphas of Mixup, the number belongs to the group
  with the lowest error.
  """
  rivals: dict[paper_tables.Cell, list[Group]] = {}
  for group in groups:
    if group.paper and group.follows_paper:
      rivals.setdefault(group.paper, []).append(group)
  best = {min(each, key=Group.mean) for each in rivals.values()}
  return {group for each in rivals.values() for group in each} - best


def method_name(group: Group) -> str:
  """Return the name of a method in the terms of table 4 of the paper."""
  fields = group.fields
  parts = ["Bootstrap"] if fields.get(LABEL_FILE) else []
  if fields["augment.mixup_alpha"]:
    parts.append("Mixup")
  if fields["sam.rho"]:
    name = fields["sam.method"]
    parts.append("SAM" if name == "sam" else name)
  elif "Mixup" not in parts:
    parts.append("SGD")
  return " + ".join(parts)


def confidence_half_width(values: Sequence[float]) -> float:
  """Return half the width of Student's 95% interval of a mean.

  Args:
    values: A sample; the result is nan for a single value.
  """
  count = len(values)
  if count < 2:
    return math.nan
  quantile = special.stdtrit(count - 1, 0.975)
  return quantile * statistics.stdev(values) / math.sqrt(count)


def format_value(value: Any) -> str:
  """Return a value of a config as a short text."""
  if isinstance(value, float):
    return f"{value:g}"
  return "-" if value is None else str(value)


def label(group: Group, fields: Sequence[str]) -> str:
  """Name a group by some fields, such as "model wrn28_10, rho 0.1"."""
  parts = []
  for name in fields:
    value = format_value(group.fields.get(name))
    if name == NOTES:
      parts.append(value or "no notes")
    elif (name, value) == ("sam.rho", "0"):
      parts.append("rho 0 (no SAM)")
    else:
      parts.append(f"{_short(name)} {value}")
  return ", ".join(parts) or "all runs"


def labels_and_title(
  part: Sequence[Group], groups: Sequence[Group], ignored: Sequence[str] = ()
) -> tuple[list[str], str]:
  """Name the groups of one figure among those of several figures.

  Args:
    part: The groups in the figure.
    groups: All groups.
    ignored: Fields that need no name.

  Returns:
    A label for each group of the figure, and a title: the fields that they have
    in common and other figures have not.
  """
  fields = distinguishing_fields(groups, ignored)
  varying = [
    field
    for field in fields
    if len({group.fields.get(field) for group in part}) > 1
  ]
  common = [field for field in fields if field not in varying]
  if not varying:
    varying, common = common, []
  labels = [textwrap.fill(label(group, varying), 80) for group in part]
  title = label(part[0], common) if common else ""
  return labels, textwrap.fill(title, 70)


def _short(field: str) -> str:
  """Return as much of a field's name as identifies it."""
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
