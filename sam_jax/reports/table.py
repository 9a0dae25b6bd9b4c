"""The Markdown table of finished runs, beside the paper's numbers."""

import statistics
from collections.abc import Sequence

from sam_jax.reports import results
from sam_jax.reports.results import Group


def table(groups: Sequence[Group]) -> list[str]:
  """Returns the lines of a Markdown table, with notes under it.

  Args:
    groups: The rows.
  """
  fields = results.differing_fields(groups)
  columns = [("error (%)", results.ERROR, "error")]
  if any(group.paper and group.paper.top_5_error for group in groups):
    columns.append(("top-5 error (%)", results.TOP_5_ERROR, "top_5_error"))
  with_paper = any(group.paper for group in groups)
  lost = results.beaten(groups)

  header = [*fields, "seeds"]
  for title, _, _ in columns:
    header += [f"last {title}", f"best {title}"]
    header += [f"paper's {title}"] if with_paper else []
  rows = [header]
  for group in groups:
    row = [results.format_value(group.fields.get(name)) for name in fields]
    row.append(str(len(group.runs)))
    for _, scalar, papers in columns:
      row.append(format_mean([run.last(scalar) for run in group.runs]))
      row.append(format_mean([run.best(scalar) for run in group.runs]))
      row += [_papers_number(group, papers, lost)] if with_paper else []
    rows.append(row)
  return [*_markdown(rows, len(fields)), "", *_notes(groups, lost)]


def _papers_number(group: Group, name: str, lost: set[Group]) -> str:
  number = getattr(group.paper, name, "")
  if number and not group.is_papers_recipe:
    return f"{number} *"
  return f"{number} †" if number and group in lost else number


def _notes(groups: Sequence[Group], lost: set[Group]) -> list[str]:
  """What the reader of a table has to know."""
  notes = ["Test errors: mean ± half-width of the 95% interval over seeds."]
  with_number = [group for group in groups if group.paper]
  tables = {}
  for group in with_number:
    tables.setdefault(group.paper.table, set()).add(group.paper.name)
  for name, cells in sorted(tables.items()):
    notes.append(f"From the paper's table {name}: {'; '.join(sorted(cells))}.")
  if not all(group.is_papers_recipe for group in with_number):
    notes.append("* These runs depart from the recipe of the paper's number.")
  if lost:
    notes.append(
      "† Not that number's runs: the paper reports the best of several, and"
      " another row is better."
    )
  return notes


def format_mean(values: Sequence[float]) -> str:
  """Returns "2.71 ± 0.10", or the value itself if there is only one."""
  mean = f"{statistics.mean(values):.2f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {results.confidence_half_width(values):.2f}"


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
