"""Training labels: files of labels, and corruption decided by a seed."""

import numpy as np
from etils import epath

from sam_jax import buckets, paths
from sam_jax.datasets.catalog import DatasetError

NOISE_KINDS = ("symmetric", "symmetric_other", "asymmetric")

# Patrini et al. (CVPR 2017): truck -> automobile, bird -> airplane,
# deer -> horse, cat <-> dog, in CIFAR-10's class numbers.
CIFAR10_CLASS_MAP = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


def write_labels(path: epath.PathLike, labels: np.ndarray) -> None:
  """Write labels int [N], one for each training example, as .npy."""
  path = paths.resolve(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("wb") as file:
    np.save(file, labels.astype(np.int32), allow_pickle=False)


def read_labels(
  path: epath.PathLike, num_examples: int, num_classes: int
) -> np.ndarray:
  """Read the labels of a training set, such as those that a run predicted.

  Args:
    path: A .npy file of integers.
    num_examples: Number of labels that the file must hold.
    num_classes: Labels must be in [0, num_classes).

  Returns:
    int32 [num_examples].

  Raises:
    DatasetError: The file is missing or does not fit.
  """
  field = f"config.dataset.label_file = {str(path)!r}"
  file_path = paths.resolve(path)
  buckets.check(path, "config.dataset.label_file")
  try:
    with file_path.open("rb") as file:
      labels = np.lib.format.read_array(file, allow_pickle=False)
  except ValueError as error:  # another format, or Python objects
    raise DatasetError(
      f"{field} is not a .npy file of integers. Write one with sam_jax.relabel,"
      " or with numpy.save from an integer array."
    ) from error
  except Exception as error:  # gs:// clients raise errors of their own
    raise DatasetError(
      f"{field} can't be read: {paths.describe_error(error)}."
    ) from error
  if labels.shape != (num_examples,) or labels.dtype.kind not in "iu":
    raise DatasetError(
      f"{field} holds {labels.dtype} of shape {labels.shape}, not one integer"
      f" for each of the {num_examples} training examples."
    )
  if num_examples and not 0 <= labels.min() <= labels.max() < num_classes:
    raise DatasetError(
      f"{field} holds labels from {labels.min()} to {labels.max()}, not from 0"
      f" to {num_classes - 1}. Write it again from a run on this data set."
    )
  return labels.astype(np.int32)


def corrupt_labels(
  labels: np.ndarray, num_classes: int, rate: float, kind: str, seed: int
) -> np.ndarray:
  """Corrupt the labels of round(rate * N) examples.

  The SAM paper (section 4.2) does not say whether a redrawn label may be the
  true one. Its SGD column is closer to the convention that it may, our default.

  Args:
    labels: int [N].
    num_classes: Number of classes.
    rate: Fraction of the examples to corrupt, in [0, 1].
    kind: "symmetric" redraws labels from all classes, so that
      rate * (1 - 1/num_classes) of all labels end up wrong; "symmetric_other"
      redraws them from the other classes: all of them end up wrong;
      "asymmetric" maps them by `CIFAR10_CLASS_MAP` and leaves the classes that
      the map lacks.
    seed: Decides which examples and which labels.

  Returns:
    int [N], a new array.

  Raises:
    DatasetError: `kind` is unknown, `rate` is out of range, or asymmetric noise
      was requested for a data set without 10 classes.
  """
  if kind not in NOISE_KINDS:
    raise DatasetError(
      f"Label noise {kind!r} is unknown; known: {NOISE_KINDS}."
    )
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
