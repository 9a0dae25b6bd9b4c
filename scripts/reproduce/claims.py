"""The rule that decides if a claim of the paper holds at this scale."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sam_jax.reports.results import confidence_half_width

Values = Sequence[float] | np.ndarray  # [S], one for each seed

RULE = (
  "Two methods are compared on the same seeds (data, initialization, order of"
  " examples). *Reproduced*: Student's 95% interval of the mean paired"
  " difference is on the paper's side of zero. *Contradicted*: it is on the"
  " other side. *Not reproduced*: it contains zero. Where the paper finds no"
  " difference, *reproduced* means that the interval is within the margin"
  " given, *contradicted* that it is outside, and *not reproduced* the rest."
  " A claim about a sequence of values of m is judged for every value against"
  " the last one, and for the slope of a straight line over log2 m through each"
  " seed's results; eigenvalues, and their ratios, by their logarithms."
)
REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
CONTRADICTED = "contradicted"


class Claim(NamedTuple):
  """A claim, the difference that was found, and the verdict.

  Attributes:
    statement: The claim.
    source: Its place in the paper.
    difference: Mean paired difference and half its 95% interval.
    unit: Unit of the difference.
    verdict: One of the three words above.
  """

  statement: str
  source: str
  difference: tuple[float, float]
  unit: str
  verdict: str


def judge_lower(
  statement: str, source: str, lower: Values, higher: Values, unit: str = ""
) -> Claim:
  """Judge a claim that one quantity is lower than another.

  Args:
    statement: The claim.
    source: Its place in the paper.
    lower: Values [S] that are claimed to be lower.
    higher: Values [S] of the other quantity, on the same seeds.
    unit: Unit of the values.
  """
  mean, half = _interval(lower, higher)
  verdict = NOT_REPRODUCED
  if mean + half < 0:
    verdict = REPRODUCED
  elif mean - half > 0:
    verdict = CONTRADICTED
  return Claim(statement, source, (mean, half), unit, verdict)


def judge_negative(
  statement: str, source: str, values: Values, unit: str = ""
) -> Claim:
  """Judge a claim that a quantity is below zero; see `judge_lower`."""
  return judge_lower(statement, source, values, np.zeros(len(values)), unit)


def judge_equal(
  statement: str,
  source: str,
  first: Values,
  second: Values,
  margin: float,
  unit: str = "",
) -> Claim:
  """Judge a claim that two quantities differ by less than a margin."""
  mean, half = _interval(first, second)
  verdict = NOT_REPRODUCED
  if -margin < mean - half and mean + half < margin:
    verdict = REPRODUCED
  elif mean - half > margin or mean + half < -margin:
    verdict = CONTRADICTED
  statement = f"{statement} (margin {margin:g}{unit and f' {unit}'})"
  return Claim(statement, source, (mean, half), unit, verdict)


def slope(positions: Sequence[float], rows: Sequence[Values]) -> np.ndarray:
  """Return the slopes [S] of straight lines through every seed's values.

  Args:
    positions: Positions [N] of the values.
    rows: Values [N, S].
  """
  return np.polynomial.polynomial.polyfit(positions, np.array(rows), 1)[1]


def _interval(first: Values, second: Values) -> tuple[float, float]:
  differences = np.subtract(first, second).tolist()
  return statistics.mean(differences), confidence_half_width(differences)
