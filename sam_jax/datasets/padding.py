"""Evaluation batches for devices that they would not divide by."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from sam_jax.datasets.in_memory import Batch


class PaddedEvaluation:
  """Another data set, but its evaluation batches are of a multiple of k."""

  def __init__(self, dataset: Any, multiple: int):
    """Takes the data set and k."""
    self.spec = dataset.spec
    self._dataset, self._multiple = dataset, multiple

  def eval_batches(self, split: str) -> Iterator[Batch]:
    """Yields the data set's batches, longer by examples with 0 in the mask."""
    for batch in self._dataset.eval_batches(split):
      missing = -len(batch["mask"]) % self._multiple
      yield {
        name: np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        for name, array in batch.items()
      }
