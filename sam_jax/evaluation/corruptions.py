"""Evaluation on corrupted images: errors by corruption and severity."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from sam_jax import wording
from sam_jax.analysis.trained_run import TrainedRun
from sam_jax.datasets.corrupted import (
  EXTRA,
  SEVERITIES,
  STANDARD,
  CorruptedImages,
)
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.evaluation import measures
from sam_jax.evaluation.report import csv_text, percent
from sam_jax.reports import markdown
from sam_jax.runs import files

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def measure(
  run: TrainedRun, images: CorruptedImages, batch_size: int | None = None
) -> list[Row]:
  """Evaluate a network on all corrupted images.

  Args:
    run: The run.
    images: The images, of the classes of the run.
    batch_size: Examples of a pass, over all devices; None for that of the run.

  Returns:
    A row for each corruption and severity: `corruption`, `set` ("standard" or
    "extra"), `severity` from 1 to 5, `examples` and the measures of
    `measures.summary`.
  """
  rows = []
  for corruption in (*STANDARD, *EXTRA):
    examples = images.load(corruption)
    dataset = InMemoryDataset(
      *(images.spec, examples, examples),
      batch_size=1,
      eval_batch_size=batch_size or run.eval_batch_size,
      seed=0,
    )
    outcomes = measures.collect(run.outcomes(dataset, "test"))
    for severity, part in enumerate(_split(outcomes), start=1):
      rows.append(
        {
          "corruption": corruption,
          "set": "standard" if corruption in STANDARD else "extra",
          "severity": severity,
          "examples": len(part["label"]),
          **measures.summary(part, images.spec.num_classes),
        }
      )
    error = _mean(rows[-SEVERITIES:])
    logger.info("%s: %s%% of %s.", run.workdir, percent(error), corruption)
  return rows


def _split(outcomes: measures.Outcomes) -> Iterator[measures.Outcomes]:
  """Yield the outcomes of each severity; those of the first come first."""
  parts = {name: np.split(x, SEVERITIES) for name, x in outcomes.items()}
  for i in range(SEVERITIES):
    yield {name: part[i] for name, part in parts.items()}


def _mean(rows: Sequence[Row], name: str = "error_rate") -> float:
  """Return the mean of a measure. All rows have the same number of examples."""
  return float(np.mean([row[name] for row in rows]))


@dataclasses.dataclass(frozen=True)
class CorruptionReport:
  """The findings of an evaluation on corrupted images.

  Attributes:
    about: The run, its step, its weights and the data, by name.
    rows: See `measure`.
    baseline: Rows of the network to compare with; empty without one.
  """

  about: Row
  rows: Sequence[Row]
  baseline: Sequence[Row] = ()

  @property
  def summary(self) -> dict[str, float]:
    """The means over all corruptions and severities.

    `mean_corruption_error`, `nll` and `ece` are those of the 15 standard
    corruptions, `extra_mean_corruption_error` is that of the other 4. With a
    baseline, `normalized_mean_corruption_error` is the mean, over the standard
    corruptions, of the error divided by that of the baseline. Each of these
    errors is a mean over the severities.
    """
    standard = _rows_of(self.rows, STANDARD)
    found = {
      "mean_corruption_error": _mean(standard),
      "extra_mean_corruption_error": _mean(_rows_of(self.rows, EXTRA)),
      "nll": _mean(standard, "nll"),
      "ece": _mean(standard, "ece"),
    }
    if self.baseline:
      ratios = [self._ratio(corruption) for corruption in STANDARD]
      found["normalized_mean_corruption_error"] = float(np.mean(ratios))
    return found

  def _ratio(self, corruption: str) -> float:
    """Return the error divided by that of the baseline."""
    ours, theirs = (
      _mean(_rows_of(rows, (corruption,)))
      for rows in (self.rows, self.baseline)
    )
    return float(np.divide(ours, theirs))

  def lines(self) -> list[str]:
    """Return the tables to print."""
    about, summary = self.about, self.summary
    count = self.rows[0]["examples"]
    lines = [
      f"{about['run']} at step {about['step']}, {about['weights']}",
      f"{about['data']}: {len(STANDARD)} + {len(EXTRA)} corruptions of"
      f" {wording.count(count, 'example')} at {SEVERITIES} severities, errors"
      " (%)",
      "",
      *self._table(),
      "",
      f"Mean corruption error: {percent(summary['mean_corruption_error'])}%, of"
      f" the {len(STANDARD)} standard corruptions.",
    ]
    if self.baseline:
      ratio = percent(summary["normalized_mean_corruption_error"])
      lines.append(f"Normalized by {about['baseline']}: {ratio}%.")
    return lines

  def _table(self) -> list[str]:
    severities = map(str, range(1, SEVERITIES + 1))
    header = ["corruption", *severities, "mean"]
    if self.baseline:
      header += ["baseline", "ratio"]
    groups: list[tuple[str, Sequence[str]]] = [
      *((name, [name]) for name in STANDARD),
      ("mean of the above", STANDARD),
      *((name, [name]) for name in EXTRA),
      (f"mean of the {len(EXTRA)} extra", EXTRA),
    ]
    cells = [(title, *self._cells(names)) for title, names in groups]
    return markdown.table(header, cells, text_columns=1)

  def _cells(self, corruptions: Sequence[str]) -> list[str]:
    """Return the cells of a line of the table."""
    rows = _rows_of(self.rows, corruptions)
    parts = [
      [row for row in rows if row["severity"] == severity]
      for severity in range(1, SEVERITIES + 1)
    ]
    errors = [*map(_mean, parts), _mean(rows)]
    if self.baseline:
      errors += [
        _mean(_rows_of(self.baseline, corruptions)),
        float(np.mean([self._ratio(name) for name in corruptions])),
      ]
    return [percent(error) for error in errors]

  def write(self, directory: epath.Path) -> list[epath.Path]:
    """Write corruptions.csv and then evaluation.json, each atomically.

    Args:
      directory: An existing directory.

    Returns:
      The files.
    """
    rows = [dict(row) for row in self.rows]
    for row, other in zip(rows, self.baseline, strict=False):
      row["baseline_error_rate"] = other["error_rate"]
    table = directory / "corruptions.csv"
    text = csv_text([rows[0].keys(), *(row.values() for row in rows)])
    files.write_atomically(table, text)
    result = directory / "evaluation.json"
    files.write_json(result, {**self.about, **self.summary})
    return [table, result]


def _rows_of(rows: Sequence[Row], corruptions: Sequence[str]) -> list[Row]:
  return [row for row in rows if row["corruption"] in corruptions]
