"""How well a measure of networks tells which ones generalise worse.

The score of the NeurIPS 2020 competition "Predicting Generalization in Deep
Learning" (PGDL), after Jiang et al., "Fantastic generalization measures and
where to find them" (ICLR 2020); section 4.1 of the SAM paper scores m-sharpness
by it.

The score is blind to the sign: a measure that is always wrong scores as high as
one that is always right. Kendall's rank correlation, which that line of work
also uses, tells one from the other.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats


def generalisation_score(
  hyperparameters: Mapping[str, Sequence[Any]],
  measure: Sequence[float],
  gap: Sequence[float],
) -> float:
  """Scores a measure of a full grid of networks.

  For every pair of hyperparameters, the mutual information between the signs of
  the measure's and the gap's differences, over all ordered pairs of networks,
  given the values of both hyperparameters in both networks, as a fraction of
  the entropy of the gap's sign. The score is the least of all those: no
  hyperparameter alone can explain it.

  Args:
    hyperparameters: Values [N] of each network, by name; at least two names,
      and at least one network for each combination of their values.
    measure: [N]; whether it is high or low where the gap is high, the score
      does not see.
    gap: [N], training accuracy minus test accuracy.

  Returns:
    In [0, 1]; nan if all gaps are equal. The competition prints 100 times it.

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
    of_gap = joint.sum(axis=1)
    of_measure = joint.sum(axis=0)
    information = _entropy(of_gap) + _entropy(of_measure) - _entropy(joint)
    entropy = _entropy(of_gap).mean()
    scores.append(information.mean() / entropy if entropy > 0 else np.nan)
  return float(np.min(scores))


def rank_correlations(
  hyperparameters: Mapping[str, Sequence[Any]],
  measure: Sequence[float],
  gap: Sequence[float],
) -> dict[str, float]:
  """Kendall's tau between a measure and the gap, one hyperparameter at a time.

  Jiang et al. (2020) call it granulated.

  Args:
    hyperparameters: Values [N] of each network, by name.
    measure: [N].
    gap: [N].

  Returns:
    In [-1, 1], by hyperparameter: the mean over the sets of networks that
    differ in it alone. 1: the measure always rises with the gap.
  """
  found = {}
  for name in hyperparameters:
    others = [
      hyperparameters[other] for other in hyperparameters.keys() - {name}
    ]
    sets = {}
    for i, values in enumerate(zip(*others, strict=True)):
      sets.setdefault(values, []).append(i)
    found[name] = float(
      np.mean(
        [kendall(np.take(measure, s), np.take(gap, s)) for s in sets.values()]
      )
    )
  return found


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
  """Kendall's tau of two sequences, as long as one another."""
  return float(stats.kendalltau(first, second).statistic)


def _cells(
  names: Sequence[str], columns: Sequence[Sequence[Any]]
) -> np.ndarray:
  """Numbers the values of two hyperparameters in two networks, int [N, N]."""
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
  """Bits, over all axes but the last one, which numbers the distributions."""
  logarithms = np.log2(np.where(probabilities > 0, probabilities, 1))
  axes = tuple(range(probabilities.ndim - 1))
  return -(probabilities * logarithms).sum(axis=axes)
