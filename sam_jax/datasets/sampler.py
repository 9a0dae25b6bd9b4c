"""The order of examples, and this host's part of each batch."""

from collections.abc import Iterator

import numpy as np

from sam_jax.datasets.catalog import DatasetError, DatasetSpec


class Sampler:
  """Orders examples by (seed, epoch), and shares batches among hosts.

  The batch of a step is a slice of a permutation drawn from (seed, epoch): any
  step can be reproduced without the steps before it. Every host draws the same
  permutation and takes its part of each batch, so that the union of the hosts'
  batches is the batch of a single host.

  Attributes:
    steps_per_epoch: Whole batches in the training set; the rest of an epoch is
      dropped, as in google-research/sam.
  """

  def __init__(
    self,
    spec: DatasetSpec,
    num_train: int,
    *,
    batch_size: int,
    eval_batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Take the sizes that decide all batches.

    Args:
      spec: The data set.
      num_train: Number of training examples.
      batch_size: Examples of a training step over all hosts.
      eval_batch_size: Examples of an evaluation step over all hosts.
      seed: Decides the order of examples.
      process_index: This host.
      process_count: Number of hosts.

    Raises:
      DatasetError: The training set is smaller than a batch.
    """
    self.steps_per_epoch = num_train // batch_size
    if not self.steps_per_epoch:
      raise DatasetError(
        f"config.batch_size = {batch_size} is more than the {num_train}"
        f" training examples of {spec.name}."
      )
    self._num_train, self._seed = num_train, seed
    self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
    self._process_index, self._process_count = process_index, process_count

  def train_indices(self, first_step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (epoch, this host's examples int [n]) from a step on, forever."""
    step = first_step
    while True:
      epoch, position = divmod(step, self.steps_per_epoch)
      random = np.random.default_rng((self._seed, epoch))
      order = random.permutation(self._num_train)
      for start in range(position, self.steps_per_epoch):
        batch = order[start * self._batch_size : (start + 1) * self._batch_size]
        yield epoch, self._my_part(batch)
        step += 1

  def eval_indices(self, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every example of a split once, in order.

    Args:
      count: Number of examples of the split.

    Yields:
      (this host's examples int [n], mask float32 [n]), n the same on all hosts
      and in all batches: 0 in the mask marks padding.
    """
    for start in range(0, count, self._eval_batch_size):
      mine = self._my_part(np.arange(start, start + self._eval_batch_size))
      yield np.minimum(mine, count - 1), (mine < count).astype(np.float32)

  def _my_part(self, indices: np.ndarray) -> np.ndarray:
    size = len(indices) // self._process_count
    return indices[self._process_index * size :][:size]
