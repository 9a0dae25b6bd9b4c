"""Handwritten digits, with a split of their own for every seed."""

from typing import NamedTuple

import numpy as np

from sam_jax.datasets.catalog import dataset_spec
from sam_jax.datasets.in_memory import load_in_memory
from sam_jax.datasets.labels import corrupt_labels

NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 512, 285, 1000
NUM_CLASSES, IMAGE_SIZE = 10, 64


class Examples(NamedTuple):
  """Normalized images float32 [S, N, 64] and labels int32 [S, N]."""

  images: np.ndarray
  labels: np.ndarray


class Splits(NamedTuple):
  """The data of S seeds; validation and test labels are always clean."""

  train: Examples
  validation: Examples
  test: Examples


def draw_splits(num_seeds: int, noise_rate: float = 0.0) -> Splits:
  """Split all 1,797 digits at random, for the seeds 0, 1, 2...

  The training set is small, so that networks differ in how they generalize.

  Args:
    num_seeds: Number of seeds S.
    noise_rate: Fraction of training labels to redraw from all classes.
  """
  images, labels = _all_digits()
  sizes = np.cumsum([NUM_TRAIN, NUM_VALIDATION, NUM_TEST])
  orders = np.stack(
    [np.random.default_rng(s).permutation(sizes[-1]) for s in range(num_seeds)]
  )
  train, validation, test = (
    Examples(images[order], labels[order])
    for order in np.split(orders, sizes[:-1], axis=1)
  )
  noisy = [
    corrupt_labels(row, NUM_CLASSES, noise_rate, "symmetric", seed)
    for seed, row in enumerate(train.labels)
  ]
  return Splits(Examples(train.images, np.stack(noisy)), validation, test)


def _all_digits() -> tuple[np.ndarray, np.ndarray]:
  spec = dataset_spec("digits")
  dataset = load_in_memory(
    spec,
    data_dir=None,
    validation_size=0,
    noise_rate=0.0,
    noise_kind="symmetric",
    noise_seed=0,
    batch_size=1,
    eval_batch_size=1000,
    seed=0,
  )
  train_images, train_labels = dataset.training_arrays()
  images, labels = [np.asarray(train_images)], [train_labels]
  for batch in dataset.eval_batches("test"):
    real = batch["mask"] > 0
    images.append(batch["image"][real])
    labels.append(batch["label"][real])
  pixels = np.concatenate(images).astype(np.float32) / 255
  pixels = pixels.reshape(len(pixels), -1)
  return (pixels - spec.mean[0]) / spec.std[0], np.concatenate(labels)
