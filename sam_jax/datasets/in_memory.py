"""Small data sets: all images in host memory, batches decided by the step."""

import logging
from collections.abc import Iterator

import numpy as np

from sam_jax.datasets import catalog, decoded, label_noise

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]


class InMemoryDataset:
  """Training and evaluation batches of a data set that fits into memory.

  The batch of a step is a slice of the permutation that (seed, epoch) decides:
  any step can be reproduced without those before it. Every host draws the same
  permutation and takes its part of each batch, so that the union of the hosts'
  batches is the batch of a single host.

  Attributes:
    spec: The data set.
    num_train: Number of training examples.
    steps_per_epoch: Whole batches in the training set; the rest of an epoch is
      dropped, as in google-research/sam.
  """

  def __init__(
    self,
    spec: catalog.DatasetSpec,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    batch_size: int,
    eval_batch_size: int,
    seed: int,
    clean_train_labels: np.ndarray | None = None,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Takes the examples of both splits.

    Args:
      spec: The data set.
      train: uint8 images [N, H, W, C] and int32 labels [N] to train on.
      test: Likewise, to evaluate on.
      batch_size: Examples of a training step over all hosts.
      eval_batch_size: Likewise, of an evaluation step.
      seed: Decides the order of examples.
      clean_train_labels: The training labels before corruption.
      process_index: This host.
      process_count: Number of hosts.

    Raises:
      DatasetError: The training set is smaller than a batch.
    """
    self.spec = spec
    self.num_train = len(train[0])
    self.steps_per_epoch = self.num_train // batch_size
    if not self.steps_per_epoch:
      raise catalog.DatasetError(
        f"config.batch_size = {batch_size} is more than the {self.num_train}"
        f" training examples of {spec.name}."
      )
    self._train, self._seed = train, seed
    clean = train[1] if clean_train_labels is None else clean_train_labels
    self._eval_splits = {"test": test, "train": (train[0], clean)}
    self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
    self._process_index, self._process_count = process_index, process_count

  def training_arrays(self) -> tuple[np.ndarray, np.ndarray]:
    """All training images, uint8 [N, H, W, C], and labels, as trained on."""
    return self._train

  def train_batches(self, first_step: int) -> Iterator[Batch]:
    """Yields this host's part of the batches of first_step, first_step + 1...

    Yields:
      `image` uint8 [n, H, W, C] and `label` int32 [n], n = batch_size / hosts.
    """
    images, labels = self._train
    step = first_step
    while True:
      epoch, position = divmod(step, self.steps_per_epoch)
      order = self._permutation(epoch)
      for start in range(position, self.steps_per_epoch):
        batch = order[start * self._batch_size : (start + 1) * self._batch_size]
        mine = self._my_part(batch)
        yield {"image": images[mine], "label": labels[mine]}
        step += 1

  def eval_batches(self, split: str) -> Iterator[Batch]:
    """Yields this host's part of every example of a split, once.

    Args:
      split: "test", or "train" for training images with their clean labels.

    Yields:
      `image`, `label` and `mask` float32 [n]: 0 marks padding, which makes all
      batches of all hosts equally large.
    """
    images, labels = self._eval_splits[split]
    for start in range(0, len(images), self._eval_batch_size):
      indices = np.arange(start, start + self._eval_batch_size)
      mine = self._my_part(indices)
      mask = (mine < len(images)).astype(np.float32)
      mine = np.minimum(mine, len(images) - 1)
      yield {"image": images[mine], "label": labels[mine], "mask": mask}

  def _permutation(self, epoch: int) -> np.ndarray:
    return np.random.default_rng((self._seed, epoch)).permutation(
      self.num_train
    )

  def _my_part(self, indices: np.ndarray) -> np.ndarray:
    size = len(indices) // self._process_count
    return indices[self._process_index * size :][:size]


def load_in_memory(
  spec: catalog.DatasetSpec,
  *,
  data_dir: str | None,
  validation_size: int,
  noise_rate: float,
  noise_kind: str,
  noise_seed: int,
  **kwargs,
) -> InMemoryDataset:
  """Loads a data set through TFDS, and corrupts training labels if asked to.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.
    validation_size: If positive, that many examples at the end of the first
      training split are held out and take the place of the test set, with
      clean labels.
    noise_rate: See `label_noise.corrupt_labels`.
    noise_kind: Likewise.
    noise_seed: Likewise.
    **kwargs: The keyword arguments of `InMemoryDataset`.

  Returns:
    The data set.

  Raises:
    DatasetError: It was never prepared, or is too small for the validation set.
  """
  first, *rest = (
    decoded.load_split(spec, split, data_dir) for split in spec.train_splits
  )
  if validation_size:
    count = len(first[0]) - validation_size
    if count <= 0:
      raise catalog.DatasetError(
        f"config.dataset.validation_size = {validation_size} leaves nothing of"
        f" the {len(first[0])} training examples of {spec.name}."
      )
    first, test = _split_at(first, count)
  else:
    test = decoded.load_split(spec, spec.test_split, data_dir)
  images, clean = _concatenate([first, *rest])
  labels = label_noise.corrupt_labels(
    clean, spec.num_classes, noise_rate, noise_kind, noise_seed
  )
  if noise_rate:
    wrong = np.mean(labels != clean)
    logger.info("Label noise: %.1f%% of training labels wrong.", 100 * wrong)
  return InMemoryDataset(
    spec, (images, labels), test, clean_train_labels=clean, **kwargs
  )


def _split_at(arrays, count):
  return tuple(x[:count] for x in arrays), tuple(x[count:] for x in arrays)


def _concatenate(splits):
  if len(splits) == 1:
    return splits[0]
  return tuple(np.concatenate(arrays) for arrays in zip(*splits, strict=True))
