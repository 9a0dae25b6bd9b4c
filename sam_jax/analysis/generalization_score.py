"""Scores of measures that should predict which networks generalize worse.

`generalization_score` is that of the NeurIPS 2020 competition "Predicting
Generalization in Deep Learning" (PGDL), after Jiang et al., "Fantastic
generalization measures and where to find them" (ICLR 2020). Section 4.1 of the
SAM paper uses it for m-sharpness.

The score ignores the sign: a measure that is always wrong scores as high as one
that is always right. Kendall's rank correlation, which these papers also use,
distinguishes them.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats


def generalization_score(
  hyperparameters: Mapping[str, Sequence[Any]],
  measure: npt.ArrayLike,
  gap: npt.ArrayLike,
) -> float:
  """Score a measure on a full grid of networks.

  Every ordered pair of networks has two signs: that of the difference of the
  measure, and that of the difference of the gap. For each pair of
  hyperparameters, compute the mutual information between these signs, given the
  values of both hyperparameters in both networks, as a fraction of the entropy
  of the sign of the gap. The score is the minimum over pairs of
  hyperparameters: no single hyperparameter can explain it.

  Args:
    hyperparameters: Values [N] of each network, by name; at least two names,
      and at least one network for each combination of their values.
    measure: Measure [N]. The score is the same for its negative, except for
      ties.
    gap: Generalization gap [N], training accuracy minus test accuracy.

  Returns:
    A number in [0, 1], or nan if all gaps are equal. The competition prints it
    multiplied by 100.

  Raises:
    ValueError: There are fewer than two hyperparameters, or a combination of
      values has no network.
  """
  if len(hyperparameters) < 2:
    raise ValueError(
      f"The score needs two hyperparameters, got {list(hyperparameters)}."
    )
  more_measure = np.subtract.outer(measure, measure) > 0
  more_gap = np.subtract.outer(gap, gap) > 0
  scores = []
  for names in itertools.combinations(hyperparameters, 2):
    cells = _cells(names, [hyperparameters[name] for name in names])
    counts = np.zeros((2, 2, cells.max() + 1))
    np.add.at(
      counts, (more_gap.astype(int), more_measure.astype(int), cells), 1
    )
    joint = counts / counts.sum(axis=(0, 1))
    gap_entropy = _entropy(joint.sum(axis=1))
    measure_entropy = _entropy(joint.sum(axis=0))
    information = gap_entropy + measure_entropy - _entropy(joint)
    entropy = gap_entropy.mean()
    scores.append(information.mean() / entropy if entropy > 0 else np.nan)
  return float(np.min(scores))


def rank_correlations(
  hyperparameters: Mapping[str, Sequence[Any]],
  measure: npt.ArrayLike,
  gap: npt.ArrayLike,
) -> dict[str, float]:
  """Return Kendall's tau of a measure and the gap for each hyperparameter.

  Jiang et al. (2020) call it the granulated Kendall's coefficient.

  Args:
    hyperparameters: Values [N] of each network, by name.
    measure: Measure [N].
    gap: Generalization gap [N].

  Returns:
    Numbers in [-1, 1] by hyperparameter: the mean over the sets of networks
    that differ in this hyperparameter only. 1 means that the measure always
    increases with the gap.
  """
  found = {}
  for name in hyperparameters:
    others = [
      hyperparameters[other] for other in hyperparameters.keys() - {name}
    ]
    sets: dict[tuple[Any, ...], list[int]] = {}
    for i, values in enumerate(zip(*others, strict=True)):
      sets.setdefault(values, []).append(i)
    found[name] = float(
      np.mean(
        [kendall(np.take(measure, s), np.take(gap, s)) for s in sets.values()]
      )
    )
  return found


def kendall(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
  """Return Kendall's tau of two sequences [N]."""
  return float(stats.kendalltau(first, second).statistic)


class RankCorrelation(NamedTuple):
  """Kendall's tau of a sample of networks.

  Attributes:
    tau: Kendall's tau, in [-1, 1]; nan if a sequence is constant.
    low: Lower end of its 95% interval; nan if the sample has none.
    high: Upper end.
    p_value: Probability of a tau at least as far from 0 if the order of one
      sequence were random.
  """

  tau: float
  low: float
  high: float
  p_value: float


def rank_correlation(
  first: npt.ArrayLike, second: npt.ArrayLike
) -> RankCorrelation:
  """Return Kendall's tau of two sequences [N], with an interval.

  The interval is that of the jackknife: mean of the pseudo-values, plus and
  minus their standard error times the quantile of Student's t, within [-1, 1].
  There is none below four networks, and none if all of them agree, as then the
  pseudo-values are equal: the p-value still depends on their number.
  """
  x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
  count = len(x)
  if count < 2:
    return RankCorrelation(math.nan, math.nan, math.nan, math.nan)
  found = stats.kendalltau(x, y)
  tau, p_value = float(found.statistic), float(found.pvalue)
  low = high = math.nan
  if count >= 4:
    without = [kendall(np.delete(x, i), np.delete(y, i)) for i in range(count)]
    pseudo = count * tau - (count - 1) * np.array(without)
    error = np.std(pseudo, ddof=1) / np.sqrt(count)
    if error > 1e-9:  # rounding
      half = stats.t.ppf(0.975, count - 1) * error
      ends = np.mean(pseudo) - half, np.mean(pseudo) + half
      low, high = np.clip(ends, -1, 1).tolist()
  return RankCorrelation(tau, low, high, p_value)


def _cells(
  names: Sequence[str], columns: Sequence[Sequence[Any]]
) -> np.ndarray:
  """Number the values of two hyperparameters in each pair of networks.

  Returns:
    int [N, N], equal for pairs of networks with equal values.

  Raises:
    ValueError: A combination of values has no network.
  """
  indices, sizes = [], []
  for column in columns:
    values, index = np.unique(np.asarray(column), return_inverse=True)
    indices.append(index)
    sizes.append(len(values))
  group = indices[0] * sizes[1] + indices[1]
  count = sizes[0] * sizes[1]
  if len(np.unique(group)) < count:
    raise ValueError(
      f"Not every combination of {names[0]} and {names[1]} has a network."
    )
  return group[:, None] * count + group[None, :]


def _entropy(probabilities: np.ndarray) -> np.ndarray:
  """Return the entropies in bits, [K], of distributions [..., K]."""
  logarithms = np.log2(np.where(probabilities > 0, probabilities, 1))
  axes = tuple(range(probabilities.ndim - 1))
  return -(probabilities * logarithms).sum(axis=axes)
