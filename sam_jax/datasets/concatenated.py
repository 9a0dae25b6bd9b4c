"""Arrays end to end, without a copy: those mapped into memory stay mapped."""

from collections.abc import Sequence

import numpy as np


class Concatenated:
  """What np.concatenate(parts) is, as far as one takes examples from it.

  Attributes:
    shape: (N, ...), N the sum of those of the parts.
    dtype: That of the parts.
  """

  def __init__(self, parts: Sequence[np.ndarray]):
    """Takes arrays [n, ...] that differ in n alone."""
    self._parts = parts
    self._ends = np.cumsum([len(part) for part in parts])
    self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
    self.dtype = parts[0].dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, where: np.ndarray | slice) -> np.ndarray:
    """Takes examples by their numbers, int [n] from 0 on, or by a slice."""
    if isinstance(where, slice):
      where = np.arange(*where.indices(len(self)))
    taken = np.empty((len(where), *self.shape[1:]), self.dtype)
    part_of = np.searchsorted(self._ends, where, side="right")
    for i, part in enumerate(self._parts):
      chosen = part_of == i
      taken[chosen] = part[where[chosen] - (self._ends[i] - len(part))]
    return taken

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(np.concatenate(self._parts), dtype)
