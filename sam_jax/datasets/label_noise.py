"""Corruption of training labels, decided by a seed."""

import numpy as np

from sam_jax.datasets.catalog import DatasetError

KINDS = ("symmetric", "symmetric_other", "asymmetric")

# Patrini et al. (CVPR 2017): truck -> automobile, bird -> airplane,
# deer -> horse, cat <-> dog, in CIFAR-10's class numbers.
CIFAR10_CLASS_MAP = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


def corrupt_labels(
  labels: np.ndarray, num_classes: int, rate: float, kind: str, seed: int
) -> np.ndarray:
  """Corrupts the labels of round(rate * N) examples.

  The paper (section 4.2) does not say whether a redrawn label may be the true
  one. Its SGD column is closer to the convention that it may, our default.

  Args:
    labels: int [N].
    num_classes: Number of classes.
    rate: Fraction of the examples to corrupt, in [0, 1].
    kind: "symmetric" redraws their labels from all classes, so that
      rate * (1 - 1/num_classes) of all labels end up wrong; "symmetric_other"
      from the other classes: all of them end up wrong; "asymmetric" maps them
      by `CIFAR10_CLASS_MAP`, classes that it lacks keep theirs.
    seed: Decides which examples and which labels.

  Returns:
    int [N], a new array.

  Raises:
    DatasetError: `kind` is unknown, `rate` is out of range, or asymmetric noise
      is asked for a data set without 10 classes.
  """
  if kind not in KINDS:
    raise DatasetError(f"Label noise {kind!r} is unknown; known: {KINDS}.")
  if not 0 <= rate <= 1:
    raise DatasetError(f"The rate of label noise is in [0, 1], got {rate}.")
  random = np.random.default_rng((seed, 0x1ABE1))
  count = round(rate * len(labels))
  chosen = random.permutation(len(labels))[:count]
  noisy = labels.copy()
  if kind == "symmetric":
    noisy[chosen] = random.integers(num_classes, size=count)
  elif kind == "symmetric_other":
    shift = random.integers(1, num_classes, size=count)
    noisy[chosen] = (labels[chosen] + shift) % num_classes
  else:
    if num_classes != 10:
      raise DatasetError(
        "config.dataset.label_noise.kind = 'asymmetric' is defined for CIFAR-10"
        f" only, not for {num_classes} classes."
      )
    table = np.arange(10)
    table[list(CIFAR10_CLASS_MAP)] = list(CIFAR10_CLASS_MAP.values())
    noisy[chosen] = table[labels[chosen]]
  return noisy
