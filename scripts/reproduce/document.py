"""Writes what was found as Markdown."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import jax

from sam_jax.runs import files
from scripts.reproduce.claims import RULE, Claim
from scripts.reproduce.laboratory import Laboratory
from scripts.reproduce.splits import NUM_TEST, NUM_TRAIN, NUM_VALIDATION
from scripts.reproduce.studies import STUDIES, Study


def write_document(
  path: pathlib.Path,
  pictures: pathlib.Path,
  studies: Mapping[str, Study],
  lab: Laboratory,
) -> None:
  """Writes the document and its pictures.

  Args:
    path: The Markdown file.
    pictures: Directory of the pictures; it is made.
    studies: What was found, by name.
    lab: Where it was found.
  """
  pictures.mkdir(parents=True, exist_ok=True)
  lines = [*_introduction(lab), *_verdicts(studies)]
  for name, study in studies.items():
    letter = "abcdefghi"[list(STUDIES).index(name)]
    lines += ["", f"## {letter}. {study.title}", "", study.text, ""]
    lines += _table(study.header, study.rows)
    if study.draw:
      picture = pictures / f"{name}.png"
      study.draw(picture)
      link = os.path.relpath(picture, path.parent)
      lines += ["", f"![{study.caption}]({link})", "", f"*{study.caption}*"]
  files.write_atomically(path, "\n".join(lines) + "\n")


def _introduction(lab: Laboratory) -> list[str]:
  minutes = sum(lab.seconds.values()) / 60
  return [
    "# The paper in miniature",
    "",
    "Written by `python -m scripts.reproduce`; every number is from that run:"
    f" {minutes:.1f} minutes of processor time, shared among {os.cpu_count()}"
    f" CPU cores, jax {jax.__version__}.",
    "",
    f"Networks with two hidden layers, trained for {lab.num_epochs} epochs on"
    f" {NUM_TRAIN} of scikit-learn's 1,797 handwritten digits, batches of 64,"
    " momentum 0.9, a cosine schedule, weight decay 5e-4, and SAM with m = 16"
    f" unless said otherwise. {NUM_VALIDATION} digits choose hyperparameters,"
    f" {NUM_TEST:,} are tested on. All means are over {lab.num_seeds} seeds,"
    " each with a split of its own, and ± is half of Student's 95% interval."
    " Small networks on small images say nothing about the paper's own tables:"
    " this shows which effects are there at this scale.",
    "",
    "All splits are of the same images, and overlap. So the intervals cover"
    " other splits, initialisations and orders of examples, but not other"
    " images: for those they are too narrow.",
    "",
  ]


def _verdicts(studies: Mapping[str, Study]) -> list[str]:
  rows = [
    (
      claim.statement,
      claim.source,
      _difference(claim),
      f"**{claim.verdict}**",
    )
    for study in studies.values()
    for claim in study.claims
  ]
  header = ("claim", "source", "difference", "verdict")
  return [
    "## Verdicts",
    "",
    f"{RULE} Differences are those of the claim: negative where the first is"
    " lower.",
    "",
    f"These are {len(rows)} verdicts, each from a 95% interval and none"
    " corrected for the others: of so many, about"
    f" {max(1, round(0.05 * len(rows)))} interval can be expected to miss its"
    " true value by chance. Training amplifies rounding, so another machine or"
    " compiler trains other networks from the same seeds, and may choose other"
    " hyperparameters where two are as good: verdicts of which the interval"
    " ends close to zero, or to the margin, can turn.",
    "",
    *_table(header, rows),
  ]


def _difference(claim: Claim) -> str:
  mean, half = claim.difference
  unit = f" {claim.unit}" if claim.unit else ""
  digits = 2 if claim.unit else 3
  return f"{mean:+.{digits}f} ± {half:.{digits}f}{unit}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  return [
    f"| {' | '.join(header)} |",
    f"|{'---|' * len(header)}",
    *(f"| {' | '.join(row)} |" for row in rows),
  ]
