"""How plots of many runs are split into files, and how lines are named."""

import pathlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from sam_jax.reports import results
from sam_jax.reports.plot_style import STYLES
from sam_jax.reports.results import Group

_INCHES_PER_LEGEND_LINE = 0.19


def parts_of(
  items: Sequence[Any], path: pathlib.Path
) -> Iterator[tuple[Sequence[Any], pathlib.Path]]:
  """As many items for each file as there are styles, and the files."""
  size = len(STYLES)
  parts = [items[i : i + size] for i in range(0, len(items), size)]
  for number, part in enumerate(parts, start=1):
    suffix = f"_{number}" if len(parts) > 1 else ""
    yield part, path.with_stem(path.stem + suffix)


def label_part(
  part: Sequence[Group], groups: Sequence[Group], ignored: Sequence[str] = ()
) -> tuple[list[str], str]:
  """Names a part of many groups.

  Args:
    part: Those in one picture.
    groups: All of them.
    ignored: Fields that need no name.

  Returns:
    A label for each, and a title: what they have in common and others not.
  """
  fields = results.naming_fields(groups, ignored)
  varying = [
    field
    for field in fields
    if len({group.fields.get(field) for group in part}) > 1
  ]
  common = [field for field in fields if field not in varying]
  if not varying:
    varying, common = common, []
  labels = [results.label(group, varying) for group in part]
  labels = [textwrap.fill(label, 80) for label in labels]
  title = results.label(part[0], common) if common else ""
  return labels, textwrap.fill(title, 70)


def legend_height(labels: Sequence[str]) -> float:
  """Inches that a legend takes; short labels stand side by side."""
  lines = sum(label.count("\n") + 1 for label in labels)
  if max(map(len, labels), default=0) < 40:
    lines = (lines + 1) // 2
  return _INCHES_PER_LEGEND_LINE * lines
