"""The rule that decides if a claim of the paper holds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from sam_jax.reports.results import confidence_half_width

Values = Sequence[float] | np.ndarray  # [S], one for each seed

LEVEL, POWER = 0.05, 0.8
REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
CONTRADICTED = "contradicted"
WORDS = (REPRODUCED, NOT_REPRODUCED, CONTRADICTED)

RULE = (
  "Two methods are compared on the same seeds: the same training images, the"
  " same initialization, the same order. A claim is tested by Student's t-test"
  " of the paired differences, two-sided; a claim of no difference by two"
  " one-sided tests against a margin. The p-values of all claims of a level"
  " are corrected by Holm's method. *Reproduced*: the corrected p is below"
  " 0.05, and the difference is on the paper's side. *Contradicted*: it is"
  " below 0.05, and the difference is on the other side. *Not reproduced*: all"
  " others. Such a claim is open, and the last column says how many seeds would"
  " decide it with a power of 80%, if the mean and the spread stay as they are."
)


class Claim(NamedTuple):
  """A claim of the paper, and what was found for every seed.

  Attributes:
    statement: The claim.
    source: Its place in the paper.
    paper: The paper's numbers.
    differences: Paired differences [S], negative where the claim holds.
    unit: Unit of the differences.
    margin: None, or the largest difference that counts as none: then the claim
      is that there is no difference.
  """

  statement: str
  source: str
  paper: str
  differences: tuple[float, ...]
  unit: str = "points"
  margin: float | None = None

  @property
  def interval(self) -> tuple[float, float]:
    """The mean difference, and half of Student's 95% interval."""
    values = list(self.differences)
    return statistics.mean(values), confidence_half_width(values)

  @property
  def p_value(self) -> tuple[float, bool]:
    """The p-value, and True if the paper's side is the likelier one."""
    if self.margin is None:
      below, above = self._one_sided(0.0)
    else:
      below = max(
        self._one_sided(self.margin)[0], self._one_sided(-self.margin)[1]
      )
      above = min(
        self._one_sided(self.margin)[1], self._one_sided(-self.margin)[0]
      )
    return min(1.0, 2 * min(below, above)), below < above

  def _one_sided(self, center: float) -> tuple[float, float]:
    """Return the p-values that the mean is below, and above, a number."""
    mean = statistics.mean(self.differences) - center
    count = len(self.differences)
    spread = statistics.stdev(self.differences) if count > 1 else math.inf
    if spread < 1e-12:
      return float(mean >= 0), float(mean <= 0)
    t = mean / spread * math.sqrt(count)
    below = float(stats.t.cdf(t, max(count - 1, 1)))
    return below, 1 - below


class Verdict(NamedTuple):
  """A claim with its verdict.

  Attributes:
    claim: The claim.
    p_value: Its p-value, corrected by Holm's method.
    word: One of the three words above.
    needed: What would decide a claim that is not reproduced; else "".
  """

  claim: Claim
  p_value: float
  word: str
  needed: str


def judge(claims: Sequence[Claim]) -> list[Verdict]:
  """Judge all claims of a level together, in their order."""
  corrected = holm([claim.p_value[0] for claim in claims])
  verdicts = []
  for claim, p_value in zip(claims, corrected, strict=True):
    word, needed = NOT_REPRODUCED, ""
    if p_value < LEVEL:
      word = REPRODUCED if claim.p_value[1] else CONTRADICTED
    else:
      needed = _seeds_needed(claim, LEVEL / len(claims))
    verdicts.append(Verdict(claim, p_value, word, needed))
  return verdicts


def holm(p_values: Sequence[float]) -> list[float]:
  """Return p-values corrected for their number (Holm, 1979), in their order."""
  order = sorted(range(len(p_values)), key=lambda i: p_values[i])
  corrected, highest = [0.0] * len(p_values), 0.0
  for rank, i in enumerate(order):
    highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
    corrected[i] = highest
  return corrected


def lower(
  statement: str,
  source: str,
  paper: str,
  first: Values,
  second: Values,
  unit: str = "points",
  margin: float | None = None,
) -> Claim:
  """Return the claim that a quantity is below another one.

  Args:
    statement: The claim.
    source: Its place in the paper.
    paper: The paper's numbers.
    first: Values [S] that are claimed to be lower.
    second: Values [S] of the other quantity, on the same seeds.
    unit: Unit of the values.
    margin: See `Claim`.
  """
  differences = tuple(np.subtract(first, second).tolist())
  return Claim(statement, source, paper, differences, unit, margin)


def slopes(positions: Sequence[float], rows: Sequence[Values]) -> np.ndarray:
  """Return the slopes [S] of straight lines through every seed's values.

  Args:
    positions: Positions [N] of the values.
    rows: Values [N, S].
  """
  return np.polynomial.polynomial.polyfit(positions, np.array(rows), 1)[1]


def _seeds_needed(claim: Claim, level: float) -> str:
  """Return the number of seeds that would decide a claim, in words."""
  mean, margin = statistics.mean(claim.differences), claim.margin
  distance = -mean if margin is None else margin - abs(mean)
  if distance <= 0:
    return "the mean is on the other side"
  normal = statistics.NormalDist()
  quantiles = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(POWER)
  spread = statistics.stdev(claim.differences)
  count = math.ceil((quantiles * spread / distance) ** 2)
  seeds = max(count, len(claim.differences) + 1)
  return f"{seeds:,} seeds" if seeds < 10_000 else "over 10,000 seeds"
