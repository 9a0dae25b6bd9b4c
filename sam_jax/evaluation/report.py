"""The report of an evaluation: tables in the terminal, files in a directory."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from sam_jax import wording
from sam_jax.evaluation import measures
from sam_jax.evaluation.measures import CALIBRATION_BINS, Outcomes
from sam_jax.reports import markdown
from sam_jax.runs import files

_CLASSES_SHOWN = 20
_TITLES = {
  "error_rate": "error (%)",
  "top_5_error_rate": "top-5 error (%)",
  "real_error_rate": "ReaL error (%)",
  "nll": "negative log-likelihood (nats)",
  "ece": f"expected calibration error (%), {CALIBRATION_BINS} bins",
}


@dataclasses.dataclass(frozen=True)
class Report:
  """The findings of an evaluation.

  Attributes:
    about: The run, its step, its weights and the data, by name.
    class_names: Names of the classes.
    outcomes: Arrays [N] as in `TrainedRun.outcomes`.
    examples: Names of the examples, such as files; None: they are numbered.
    has_labels: False to report predictions alone.
  """

  about: dict[str, Any]
  class_names: tuple[str, ...]
  outcomes: Outcomes
  examples: Sequence[str] | None = None
  has_labels: bool = True

  @property
  def summary(self) -> dict[str, float]:
    """The mean measures of all examples."""
    return measures.summary(self.outcomes, len(self.class_names))

  @property
  def confusion(self) -> np.ndarray:
    """See `measures.confusion_matrix`."""
    return measures.confusion_matrix(self.outcomes, len(self.class_names))

  def lines(self) -> list[str]:
    """Return the tables to print.

    With many classes, only those with the highest error, and no confusion
    matrix: the files have all.
    """
    about = self.about
    examples = wording.count(len(self.outcomes["label"]), "example")
    with_set = ""
    if "has_label_set" in self.outcomes:
      with_set = f", {self._count_sets():,} with ReaL labels"
    lines = [
      f"{about['run']} at step {about['step']}, {about['weights']}",
      f"{about['data']}, {about['split']}: {examples}{with_set}",
      "",
    ]
    if not self.has_labels:
      return [*lines, *self._prediction_table()]
    lines += [
      *_summary_table(self.summary),
      "",
    ]
    rows = measures.class_rows(self.confusion, self.class_names)
    if len(rows) > _CLASSES_SHOWN:
      lines += [
        f"The {_CLASSES_SHOWN} of {len(rows)} classes with most errors:"
      ]
      rows.sort(key=lambda row: -(row["error_rate"] or 0))
    lines += _class_table(rows[:_CLASSES_SHOWN])
    if len(rows) <= _CLASSES_SHOWN:
      lines += ["", "Examples by label (rows) and prediction (columns):"]
      lines += _confusion_table(self.confusion, self.class_names)
    return lines

  def write(self, directory: epath.Path) -> list[epath.Path]:
    """Write all results, each file atomically, the summary last.

    Args:
      directory: An existing directory.

    Returns:
      The files: predictions.csv, confusion.csv, classes.csv, evaluation.json;
      only the first and the last one without labels.
    """
    count = len(self.outcomes["label"])
    result = {**self.about, "examples": count}
    contents = {"predictions.csv": csv_text(self._predictions())}
    if self.has_labels:
      result |= self.summary
      contents |= self._tables_of_labels()
    if "has_label_set" in self.outcomes:
      result["real_examples"] = self._count_sets()
    for name, text in contents.items():
      files.write_atomically(directory / name, text)
    files.write_json(directory / "evaluation.json", result)
    return [directory / name for name in (*contents, "evaluation.json")]

  def _count_sets(self) -> int:
    """Return the number of examples with a set of labels that is not empty."""
    return int(self.outcomes["has_label_set"].sum())

  def _tables_of_labels(self) -> dict[str, str]:
    """Return the contents of confusion.csv and classes.csv."""
    rows = measures.class_rows(self.confusion, self.class_names)
    return {
      "confusion.csv": csv_text(
        [
          ("label", *self.class_names),
          *zip(self.class_names, *self.confusion.T.tolist(), strict=True),
        ]
      ),
      "classes.csv": csv_text(
        [rows[0].keys(), *(row.values() for row in rows)]
      ),
    }

  def _prediction_table(self) -> list[str]:
    """Return how many examples each class was predicted for."""
    counts = np.bincount(
      self.outcomes["prediction"], minlength=len(self.class_names)
    )
    order = np.argsort(-counts, kind="stable")[:_CLASSES_SHOWN]
    rows = [(self.class_names[i], str(counts[i])) for i in order if counts[i]]
    return markdown.table(("prediction", "examples"), rows, text_columns=1)

  def _predictions(self) -> Iterable[Sequence[Any]]:
    """Yield the lines of predictions.csv."""
    yield "example", "label", "prediction", "confidence", "nll"
    names, outcomes = self.class_names, self.outcomes
    examples = self.examples or range(len(outcomes["label"]))
    for example, label, prediction, confidence, nll in zip(
      examples,
      outcomes["label"],
      outcomes["prediction"],
      outcomes["confidence"],
      outcomes["nll"],
      strict=True,
    ):
      known = (names[label], f"{nll:.6g}") if self.has_labels else ("", "")
      yield example, known[0], names[prediction], f"{confidence:.6g}", known[1]


def is_of_other_images(directory: epath.Path, path: str | None) -> bool:
  """Return True if a directory has the results for images of another path.

  Args:
    directory: Directory of `Report.write`, which need not exist.
    path: Path of the images; None if they are of a data set of TFDS.
  """
  try:
    result = json.loads((directory / "evaluation.json").read_text())
    return result["path"] != path
  except (OSError, ValueError, LookupError, TypeError):  # none, or damaged
    return False


def _summary_table(summary: dict[str, float]) -> list[str]:
  rows = []
  for name, value in summary.items():
    is_percent = "%" in _TITLES[name]
    text = f"{100 * value:.2f}" if is_percent else f"{value:.4f}"
    rows.append((_TITLES[name], text))
  return markdown.table(("measure", "value"), rows, text_columns=1)


def _class_table(rows: Sequence[dict[str, Any]]) -> list[str]:
  header = (
    *("class", "most errors are", "examples", "error (%)", "predicted"),
    "precision (%)",
  )
  cells = [
    (
      *(row["class"], row["taken_for"], str(row["examples"])),
      *(percent(row["error_rate"]), str(row["predicted"])),
      percent(row["precision"]),
    )
    for row in rows
  ]
  return markdown.table(header, cells, text_columns=2)


def _confusion_table(
  confusion: np.ndarray, names: tuple[str, ...]
) -> list[str]:
  rows = [
    (name, *map(str, counts))
    for name, counts in zip(names, confusion, strict=True)
  ]
  return markdown.table(("", *names), rows, text_columns=1)


def percent(value: float | None) -> str:
  """Return a fraction in percent; "" for None."""
  return "" if value is None else f"{100 * value:.2f}"


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
  """Return rows as CSV; texts with separators or newlines are quoted."""
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue()
