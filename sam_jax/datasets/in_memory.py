"""Small data sets: all images in host memory, batches decided by the step."""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np
from etils import epath

from sam_jax.datasets import (
  array_cache,
  catalog,
  decoded,
  label_file,
  label_noise,
)
from sam_jax.datasets.concatenated import Concatenated
from sam_jax.datasets.sampler import Sampler

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]


class InMemoryDataset:
  """Training and evaluation batches of a data set that fits into memory.

  `Sampler` says which examples make up a batch.

  Attributes:
    spec: The data set.
    num_train: Number of training examples.
    steps_per_epoch: Whole batches in the training set.
  """

  def __init__(
    self,
    spec: catalog.DatasetSpec,
    train: tuple[np.ndarray | Concatenated, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    clean_train_labels: np.ndarray | None = None,
    **sampling,
  ):
    """Takes the examples of both splits.

    Args:
      spec: The data set.
      train: uint8 images [N, H, W, C] and int32 labels [N] to train on; images
        may be `Concatenated`.
      test: Likewise, to evaluate on.
      clean_train_labels: The true labels of the training set where those to
        train on may be wrong.
      **sampling: The keyword arguments of `Sampler`.

    Raises:
      DatasetError: The training set is smaller than a batch.
    """
    images, labels = train
    self.num_train = len(images)
    self._sampler = Sampler(spec, self.num_train, **sampling)
    self.steps_per_epoch = self._sampler.steps_per_epoch
    self._train = {"image": images, "label": labels}
    if clean_train_labels is not None:
      spec = dataclasses.replace(spec, noisy_labels=True)
      self._train["clean_label"] = clean_train_labels
    self.spec = spec
    clean = self._train.get("clean_label", labels)
    self._eval_splits = {
      "test": {"image": test[0], "label": test[1]},
      "train": {"image": images, "label": clean},
    }

  def training_arrays(self) -> tuple[np.ndarray | Concatenated, np.ndarray]:
    """All training images, uint8 [N, H, W, C], and labels, as trained on.

    The images of several splits are `Concatenated`.
    """
    return self._train["image"], self._train["label"]

  def train_batches(self, first_step: int) -> Iterator[Batch]:
    """Yields this host's part of the batches of first_step, first_step + 1...

    Yields:
      `image` uint8 [n, H, W, C] and `label` int32 [n], n = batch_size / hosts;
      `clean_label` int32 [n] where labels may be wrong.
    """
    for _, mine in self._sampler.train_indices(first_step):
      yield {name: array[mine] for name, array in self._train.items()}

  def eval_batches(self, split: str) -> Iterator[Batch]:
    """Yields this host's part of every example of a split, once, in order.

    Args:
      split: "test", or "train" for training images with their clean labels.

    Yields:
      `image`, `label` and `mask` float32 [n]: 0 marks padding, which makes all
      batches of all hosts equally large.
    """
    arrays = self._eval_splits[split]
    for mine, mask in self._sampler.eval_indices(len(arrays["label"])):
      batch = {name: array[mine] for name, array in arrays.items()}
      yield {**batch, "mask": mask}


def load_in_memory(
  spec: catalog.DatasetSpec,
  *,
  data_dir: str | None,
  validation_size: int,
  noise_rate: float = 0.0,
  noise_kind: str = "symmetric",
  noise_seed: int = 0,
  labels_path: epath.PathLike | None = None,
  **sampling,
) -> InMemoryDataset:
  """Loads a data set through TFDS, and its training labels as asked for.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.
    validation_size: If positive, that many examples at the end of the first
      training split are held out and take the place of the test set, with
      clean labels.
    noise_rate: See `label_noise.corrupt_labels`.
    noise_kind: Likewise.
    noise_seed: Likewise.
    labels_path: See `label_file.read_labels`; None for the labels of TFDS.
    **sampling: The keyword arguments of `Sampler`.

  Returns:
    The data set.

  Raises:
    DatasetError: It was never prepared, is damaged, or is too small for the
      validation set.
  """
  train, test = _load_splits(spec, data_dir, validation_size)
  clean, labels = train[catalog.CLEAN_LABEL], train[spec.label_column]
  if labels_path:
    labels = label_file.read_labels(labels_path, len(clean), spec.num_classes)
  labels = label_noise.corrupt_labels(
    labels, spec.num_classes, noise_rate, noise_kind, noise_seed
  )
  may_be_wrong = (
    noise_rate > 0 or labels_path or spec.label_column != catalog.CLEAN_LABEL
  )
  if may_be_wrong:
    wrong = np.mean(labels != clean)
    logger.info("%.1f%% of the training labels are wrong.", 100 * wrong)
  return InMemoryDataset(
    spec,
    (train["image"], labels),
    (test["image"], test[catalog.CLEAN_LABEL]),
    clean_train_labels=clean if may_be_wrong else None,
    **sampling,
  )


def _load_splits(
  spec: catalog.DatasetSpec, data_dir: str | None, validation_size: int
) -> tuple[array_cache.Arrays, array_cache.Arrays]:
  """The arrays to train on, and those to evaluate on."""
  first, *rest = (
    decoded.load_split(spec, split, data_dir) for split in spec.train_splits
  )
  if validation_size:
    count = num_left_to_train(spec, len(first["label"]), validation_size)
    test = {name: array[count:] for name, array in first.items()}
    first = {name: array[:count] for name, array in first.items()}
  else:
    test = decoded.load_split(spec, spec.test_split, data_dir)
  if not rest:
    return first, test
  # Images of the size of SVHN's are best left on the disk.
  train = {
    name: (Concatenated if name == "image" else np.concatenate)(
      [arrays[name] for arrays in (first, *rest)]
    )
    for name in first
  }
  return train, test


def num_left_to_train(
  spec: catalog.DatasetSpec, num_examples: int, validation_size: int
) -> int:
  """How many examples of a split are not held out.

  Raises:
    DatasetError: None is left.
  """
  count = num_examples - validation_size
  if count > 0:
    return count
  raise catalog.DatasetError(
    f"config.dataset.validation_size = {validation_size} leaves nothing of the"
    f" {num_examples} training examples of {spec.name}."
  )
