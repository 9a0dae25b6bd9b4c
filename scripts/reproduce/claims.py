"""The rule that says whether a claim of the paper holds at this scale."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sam_jax.reports.results import confidence_half_width

RULE = (
  "Two methods are compared on the same seeds (data, initialisation, order of"
  " examples). *Reproduced*: Student's 95% interval of the mean paired"
  " difference lies on the paper's side of zero. *Contradicted*: it lies on the"
  " other side. *Not reproduced*: it holds zero. Where the paper finds no"
  " difference, *reproduced* means that the interval lies within the margin"
  " given, *contradicted* that it lies outside, and *not reproduced* the rest."
  " A claim about a sequence of values of m is judged for every value against"
  " the last one, and for the slope of a straight line over log2 m through each"
  " seed's results; eigenvalues, and their ratios, by their logarithms."
)
REPRODUCED, NOT, CONTRADICTED = "reproduced", "not reproduced", "contradicted"


class Claim(NamedTuple):
  """A claim, what was found, and the verdict.

  Attributes:
    statement: What is claimed.
    source: Where in the paper.
    difference: Mean paired difference and half its 95% interval.
    unit: Of the difference.
    verdict: One of the three words.
  """

  statement: str
  source: str
  difference: tuple[float, float]
  unit: str
  verdict: str


def is_lower(
  statement: str,
  source: str,
  lower: Sequence[float],
  higher: Sequence[float],
  unit: str = "",
) -> Claim:
  """Judges a claim that one quantity is lower than another.

  Args:
    statement: The claim.
    source: Where in the paper.
    lower: Values [S], of the one that is claimed to be lower.
    higher: Values [S] of the other one, on the same seeds.
    unit: Of the values.
  """
  mean, half = _interval(lower, higher)
  verdict = NOT
  if mean + half < 0:
    verdict = REPRODUCED
  elif mean - half > 0:
    verdict = CONTRADICTED
  return Claim(statement, source, (mean, half), unit, verdict)


def slope(
  positions: Sequence[float], rows: Sequence[Sequence[float]]
) -> np.ndarray:
  """Slopes [S] of straight lines through every seed's values.

  Args:
    positions: [N].
    rows: Values [N, S].
  """
  return np.polynomial.polynomial.polyfit(positions, np.array(rows), 1)[1]


def is_equal(
  statement: str,
  source: str,
  first: Sequence[float],
  second: Sequence[float],
  margin: float,
  unit: str = "",
) -> Claim:
  """Judges a claim that two quantities differ by less than a margin."""
  mean, half = _interval(first, second)
  verdict = NOT
  if -margin < mean - half and mean + half < margin:
    verdict = REPRODUCED
  elif mean - half > margin or mean + half < -margin:
    verdict = CONTRADICTED
  statement = f"{statement} (margin {margin:g}{unit and f' {unit}'})"
  return Claim(statement, source, (mean, half), unit, verdict)


def _interval(
  first: Sequence[float], second: Sequence[float]
) -> tuple[float, float]:
  differences = np.subtract(first, second).tolist()
  return statistics.mean(differences), confidence_half_width(differences)
