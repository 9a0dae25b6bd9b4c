"""Decoded splits of TFDS data sets, cached as plain arrays.

The first run decodes a split through TFDS and TensorFlow; later runs map the
cached arrays into memory and need neither.
"""

import json
import logging
import os
import shutil
import tempfile
import zlib

import numpy as np
from etils import epath

from sam_jax.datasets import catalog

logger = logging.getLogger(__name__)

_ARRAYS = ("image", "label")


def load_split(
  spec: catalog.DatasetSpec, split: str, data_dir: str | None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns all examples of a split, in TFDS's order.

  Args:
    spec: The data set.
    split: A TFDS split.
    data_dir: TFDS's data directory; None for its default.

  Returns:
    Images uint8 [N, H, W, C], memory-mapped, and labels int32 [N].

  Raises:
    DatasetError: The data set was never prepared.
  """
  cache = _data_dir(data_dir) / "sam_jax_decoded" / spec.name / split
  arrays = _read_cache(cache)
  if arrays is None:
    arrays = _decode(spec, split, data_dir)
    _write_cache(cache, arrays)
  return arrays


def _data_dir(data_dir: str | None) -> epath.Path:
  """TFDS's data directory, found as TFDS finds it but without its import."""
  default = os.path.join("~", "tensorflow_datasets")
  path = data_dir or os.environ.get("TFDS_DATA_DIR") or default
  return epath.Path(path).expanduser()


def _decode(spec, split, data_dir) -> tuple[np.ndarray, np.ndarray]:
  builder = catalog.prepared_builder(spec, data_dir)
  import tensorflow as tf
  import tensorflow_datasets as tfds

  tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
  count = builder.info.splits[split].num_examples
  images = np.empty((count, *spec.image_shape), np.uint8)
  labels = np.empty((count,), np.int32)
  examples = tfds.as_numpy(builder.as_dataset(split=split))
  for i, example in enumerate(examples):
    images[i], labels[i] = example["image"], example["label"]
  return images, labels


def _read_cache(cache: epath.Path) -> tuple[np.ndarray, np.ndarray] | None:
  """Reads the arrays of a cache; None if there is none, or it is damaged."""
  if not (cache / "checksums.json").exists():
    return None
  try:
    checksums = json.loads((cache / "checksums.json").read_text())
    arrays = tuple(
      np.load(cache / f"{name}.npy", mmap_mode="r", allow_pickle=False)
      for name in _ARRAYS
    )
    is_whole = all(
      zlib.crc32(array) == checksums[name]
      for name, array in zip(_ARRAYS, arrays, strict=True)
    )
  except (OSError, ValueError, KeyError):
    is_whole = False
  if is_whole:
    return arrays
  logger.warning("The decoded images in %s are damaged: made anew.", cache)
  return None


def _write_cache(cache: epath.Path, arrays) -> None:
  """Writes arrays so that a reader finds all of them or none."""
  if "://" in os.fspath(cache):
    return  # what can't be mapped into memory is decoded every time
  try:
    cache.parent.mkdir(parents=True, exist_ok=True)
    directory = epath.Path(tempfile.mkdtemp(dir=cache.parent))
  except OSError as error:
    logger.warning("Can't cache decoded images in %s: %s", cache, error)
    return
  checksums = {}
  for name, array in zip(_ARRAYS, arrays, strict=True):
    np.save(directory / f"{name}.npy", array, allow_pickle=False)
    checksums[name] = zlib.crc32(array)
  (directory / "checksums.json").write_text(json.dumps(checksums))
  if cache.exists():
    shutil.rmtree(cache)
  try:
    os.rename(directory, cache)
  except OSError:  # another process was faster: its arrays are the same
    shutil.rmtree(directory)
