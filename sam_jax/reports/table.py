"""The Markdown table of finished runs, next to the paper's numbers."""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from sam_jax.reports import markdown, results
from sam_jax.reports.baselines import compare_with_baselines
from sam_jax.reports.results import NOTES, Group
from sam_jax.reports.run_records import ERROR, TOP_5_ERROR, RunRecord


class _Column(NamedTuple):
  """A column of numbers.

  Attributes:
    title: Head of the column.
    cell: Text in the row of a group.
  """

  title: str
  cell: Callable[[Group], str]


# Scalars of metrics.jsonl that have a column where runs logged them: tag,
# title, scale and note below the table.
_LOGGED = (
  (
    "train/error_rate",
    "train error (%)",
    100,
    "Train error: the last one in the training log, on batches as augmented and"
    " labeled.",
  ),
  (
    "clean_train/error_rate",
    "clean train error (%)",
    100,
    "Clean train error: on the training set without augmentation and label"
    " noise.",
  ),
  ("analysis/sharpness", "sharpness", 1, ""),
  ("analysis/m_sharpness", "m-sharpness", 1, ""),
  ("analysis/lambda_max", "lambda max", 1, ""),
)


def result_table(groups: Sequence[Group]) -> list[str]:
  """Return the lines of a Markdown table, with notes below it.

  Args:
    groups: The rows.
  """
  fields = [f for f in results.differing_fields(groups) if f != NOTES]
  if any(group.fields[NOTES] for group in groups):
    fields.insert(0, NOTES)
  columns = [
    _Column("seeds", lambda group: str(len(group.runs))),
    *_test_columns(groups),
    *_logged_columns(groups),
    *_reduction_column(groups),
  ]
  rows = [
    [
      *(results.format_value(group.fields.get(name)) for name in fields),
      *(column.cell(group) for column in columns),
    ]
    for group in groups
  ]
  header = [*fields, *(column.title for column in columns)]
  lines = markdown.table(header, rows, text_columns=len(fields))
  return [*lines, "", *(f"- {note}" for note in _footnotes(groups))]


def format_mean(values: Sequence[float]) -> str:
  """Return "2.71 ± 0.10", "2.71" for one value, and "-" for none.

  Args:
    values: A value for each seed; nan where a run has none.
  """
  known = [value for value in values if not math.isnan(value)]
  if not known:
    return "-"
  mean = f"{statistics.mean(known):.2f}"
  if len(known) < 2:
    return mean
  return f"{mean} ± {results.confidence_half_width(known):.2f}"


def _test_columns(groups: Sequence[Group]) -> list[_Column]:
  """Return columns of test errors, and of the paper's if there are some."""
  scalars = [("error (%)", ERROR, "error")]
  if any(group.paper and group.paper.top_5_error for group in groups):
    scalars.append(("top-5 error (%)", TOP_5_ERROR, "top_5_error"))
  superseded = results.runners_up(groups)
  columns = []
  for title, scalar, attribute in scalars:
    columns += [
      _mean_column(f"last {title}", partial(RunRecord.last, scalar=scalar)),
      _mean_column(f"best {title}", partial(RunRecord.best, scalar=scalar)),
    ]
    if any(group.paper for group in groups):
      cell = partial(_paper_cell, attribute=attribute, superseded=superseded)
      columns.append(_Column(f"paper's {title}", cell))
  return columns


def _mean_column(title: str, value: Callable[[RunRecord], float]) -> _Column:
  return _Column(
    title, lambda group: format_mean([value(run) for run in group.runs])
  )


def _paper_cell(group: Group, attribute: str, superseded: set[Group]) -> str:
  """Return a number of the paper with the mark of its footnote."""
  number = getattr(group.paper, attribute, "")
  if number and not group.follows_paper:
    return f"{number} *"
  return f"{number} †" if number and group in superseded else number


def _logged_columns(groups: Sequence[Group]) -> list[_Column]:
  """Return columns of scalars that some run logged."""
  return [
    _mean_column(title, partial(_last_logged, tag=tag, scale=scale))
    for tag, title, scale, _ in _LOGGED
    if _is_logged(tag, groups)
  ]


def _last_logged(run: RunRecord, tag: str, scale: float) -> float:
  return scale * run.last_logged(tag)


def _is_logged(tag: str, groups: Sequence[Group]) -> bool:
  return any(
    not math.isnan(run.last_logged(tag))
    for group in groups
    for run in group.runs
  )


def _reduction_column(groups: Sequence[Group]) -> list[_Column]:
  """Return the column of error reductions by SAM, if there are some."""
  reductions = {
    pair.sam: f"{pair.reduction:.1f}" for pair in compare_with_baselines(groups)
  }
  if not reductions:
    return []
  return [_Column("reduction (%)", lambda group: reductions.get(group, ""))]


def _footnotes(groups: Sequence[Group]) -> list[str]:
  """Return the lines that explain the columns."""
  intervals = any(len(group.runs) > 1 for group in groups)
  notes = [
    "Last error: test error at the end of training"
    + (
      ", mean ± half-width of the 95% interval over seeds."
      if intervals
      else "."
    )
  ]
  notes.append(
    "Best error: lowest of all evaluations, chosen on the test set itself and"
    " so too optimistic."
  )
  notes += [
    note for tag, _, _, note in _LOGGED if note and _is_logged(tag, groups)
  ]
  notes += _sharpness_note(groups)
  if _reduction_column(groups):
    notes.append(
      "Reduction: of the last error by SAM, relative to the same runs without"
      " SAM, the better of N and 2N epochs."
    )
  return [*notes, *_paper_notes(groups)]


def _sharpness_note(groups: Sequence[Group]) -> list[str]:
  """Return a line about how sharpness was measured, if it was."""
  measured = [
    run
    for group in groups
    for run in group.runs
    if not math.isnan(run.last_logged("analysis/sharpness"))
  ]
  if not measured:
    return []
  names = ("rho", "m", "num_examples")
  settings = {
    tuple(run.fields[f"analysis.{name}"] for name in names) for run in measured
  }
  if len(settings) > 1:
    how = "with different config.analysis, so rows are not comparable"
  else:
    rho, m, count = settings.pop()
    how = f"with rho = {rho:g} and m = {m} on {count} training examples"
  return [
    "Sharpness (of all examples, and of groups of m) and lambda max, the"
    f" largest eigenvalue of the Hessian: the last ones logged, {how}."
  ]


def _paper_notes(groups: Sequence[Group]) -> list[str]:
  """Return the lines about the paper's numbers, if there are some."""
  tables: dict[str, set[str]] = {}
  for group in groups:
    if group.paper:
      tables.setdefault(group.paper.table, set()).add(group.paper.name)
  notes = [
    f"From the paper's table {name}: {'; '.join(sorted(cells))}."
    for name, cells in sorted(tables.items())
  ]
  if any(group.paper and not group.follows_paper for group in groups):
    notes.append(
      "Marked *: these runs depart from the recipe of the paper's number."
    )
  if results.runners_up(groups):
    notes.append(
      "Marked †: the paper reports the best of several recipes, and another row"
      " is better, to which the number belongs."
    )
  return notes
