"""Labels in a file of their own, such as those that another run predicted."""

import numpy as np
from etils import epath

from sam_jax.datasets.catalog import DatasetError


def write_labels(path: epath.PathLike, labels: np.ndarray) -> None:
  """Writes labels int [N], one for each training example, as .npy."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("wb") as file:
    np.save(file, labels.astype(np.int32), allow_pickle=False)


def read_labels(
  path: epath.PathLike, num_examples: int, num_classes: int
) -> np.ndarray:
  """Reads the labels of a training set.

  Args:
    path: A .npy file of integers.
    num_examples: How many there must be.
    num_classes: Their range.

  Returns:
    int32 [num_examples].

  Raises:
    DatasetError: The file is not there or does not fit.
  """
  field = f"config.dataset.label_file = {str(path)!r}"
  try:
    with epath.Path(path).open("rb") as file:
      labels = np.load(file, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise DatasetError(f"{field} can't be read as .npy: {error}") from error
  if labels.shape != (num_examples,) or labels.dtype.kind not in "iu":
    raise DatasetError(
      f"{field} holds {labels.dtype} of shape {labels.shape}, not one integer"
      f" for each of the {num_examples} training examples."
    )
  if num_examples and not 0 <= labels.min() <= labels.max() < num_classes:
    raise DatasetError(
      f"{field} holds labels from {labels.min()} to {labels.max()}, not from 0"
      f" to {num_classes - 1}."
    )
  return labels.astype(np.int32)
