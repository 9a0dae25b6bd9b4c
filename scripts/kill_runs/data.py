"""Small data sets of noise, as TFDS prepares the real ones."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from sam_jax.datasets.catalog import dataset_spec

_COUNTS = {"train": 160, "validation": 32, "test": 32}


def write(name: str, data_dir: str) -> None:
  """Prepare random images as a data set of the catalog.

  Args:
    name: "cifar10" or "fgvc_aircraft".
    data_dir: TFDS's data directory.
  """
  # Imported late: this imports TensorFlow, which runs on digits do not need.
  import tensorflow_datasets as tfds

  from sam_jax.datasets import tfds_files

  builder = tfds_files.tfds_builder(dataset_spec(name), data_dir)
  features = builder.info.features
  # In place of a subclass, which TFDS would register under the same name.
  builder._split_generators = lambda dl_manager: {
    split: _examples(count, features) for split, count in _COUNTS.items()
  }
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(None):
    builder.download_and_prepare()


def _examples(count: int, features: Any) -> Iterator[tuple[int, Any]]:
  """Yield examples; images whose size is not fixed differ in it."""
  random = np.random.default_rng(0)
  for i in range(count):
    shape = [n or random.integers(16, 24) for n in features["image"].shape]
    example: dict[str, Any] = {}
    for name, feature in features.items():
      num_classes = getattr(feature, "num_classes", None)  # of a ClassLabel
      example[name] = i % num_classes if num_classes else str(i)
    example["image"] = random.integers(256, size=shape, dtype=np.uint8)
    yield i, example
