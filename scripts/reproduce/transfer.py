"""Images of some classes as files: fine-tuning starts from other classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from sam_jax.config.schema import flatten
from sam_jax.datasets.catalog import IMAGE_FOLDER, dataset_spec
from sam_jax.datasets.in_memory import load_split
from sam_jax.runs import files

DATASET = "fashion_mnist"
DIRECTORY = "transfer"
PRETRAINING = f"{DIRECTORY}/pretraining.csv"
FINE_TUNING = f"{DIRECTORY}/seed{{seed}}.csv"
FIRST_NEW_CLASS = 6  # shirts, sneakers, bags and ankle boots
NUM_PRETRAINING, NUM_FINE_TUNING, NUM_EVALUATED = 6000, 320, 2000


def steps_per_epoch(fields: Mapping[str, Any]) -> int:
  """Return the steps of an epoch, from the sizes of the data set.

  Args:
    fields: A config, nested or flat.
  """
  flat = dict(flatten(dict(fields)))
  if flat["dataset.name"] == IMAGE_FOLDER:
    is_first = flat["dataset.data_dir"].endswith(PRETRAINING)
    total = NUM_PRETRAINING if is_first else NUM_FINE_TUNING
  else:
    total = dataset_spec(flat["dataset.name"]).train_examples or 0
    total -= flat["dataset.validation_size"]
  return total // flat["dataset.parts"] // flat["batch_size"]


def write_images(root: epath.Path, seeds: int, tuning: tuple[int, ...]) -> None:
  """Write PNG files, and a CSV file for each run to train on.

  Runs of different seeds fine-tune on different images, and are tested on the
  same images of the test set; those that choose hyperparameters are tested on
  training images that no other run has.

  Args:
    root: Directory of all runs.
    seeds: Number of seeds of a result.
    tuning: Seeds that choose hyperparameters.
  """
  directory = root / DIRECTORY
  last = directory / "complete"
  if last.exists():
    return
  directory.mkdir(parents=True, exist_ok=True)
  spec = dataset_spec(DATASET)
  train, test = (load_split(spec, split, None) for split in ("train", "test"))
  old, new = _split(train["label"])
  old_test, new_test = _split(test["label"])

  def rows(arrays, indices, name, split):
    for i in indices:
      Image.fromarray(arrays["image"][i][..., 0]).save(
        directory / f"{name}{i}.png"
      )
    labels = arrays["label"]
    return [f"{name}{i}.png,class{labels[i]},{split}" for i in indices]

  def write(path, lines):
    text = "\n".join(["path,label,split", *lines]) + "\n"
    files.write_atomically(root / path, text)

  tested = rows(test, new_test[:NUM_EVALUATED], "test", "test")
  held_out = rows(train, new[-NUM_EVALUATED:], "train", "val")
  for place, seed in enumerate([*range(seeds), *tuning]):
    own = new[place * NUM_FINE_TUNING : (place + 1) * NUM_FINE_TUNING]
    evaluated = tested if seed < seeds else held_out
    write(
      FINE_TUNING.format(seed=seed),
      rows(train, own, "train", "train") + evaluated,
    )
  first = rows(train, old[:NUM_PRETRAINING], "train", "train")
  others = rows(test, old_test[:NUM_EVALUATED], "test", "test")
  write(PRETRAINING, first + others)
  files.write_atomically(last, "")


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the examples of the old and of the new classes, int [n] each."""
  is_new = labels >= FIRST_NEW_CLASS
  return np.flatnonzero(~is_new), np.flatnonzero(is_new)
