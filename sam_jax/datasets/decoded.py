"""Decoded splits of TFDS data sets, cached as plain arrays.

The first run decodes a split through TFDS and TensorFlow; later runs map the
cached arrays into memory and need neither.
"""

import zlib
from typing import Any

import numpy as np

from sam_jax.datasets import array_cache, catalog, records

_HEAD_BYTES = 64 * 1024


def load_split(
  spec: catalog.DatasetSpec, split: str, data_dir: str | None
) -> array_cache.Arrays:
  """Returns all examples of a split, in TFDS's order.

  Args:
    spec: The data set.
    split: A TFDS split.
    data_dir: TFDS's data directory; None for its default.

  Returns:
    `image` uint8 [N, H, W, C], memory-mapped, `label` int32 [N], and each of
    the noisy label columns that the data set has, int32 [N].

  Raises:
    DatasetError: The data set was never prepared, or is damaged.
  """
  cache = array_cache.cache_dir(data_dir, "decoded", spec.name, split)
  arrays = array_cache.read_arrays(cache, _files(spec, split, data_dir))
  if arrays is None:
    arrays = _decode(spec, split, data_dir)
    # Their files may have been made just now.
    source = _files(spec, split, data_dir)
    array_cache.write_arrays(cache, arrays, source)
  return arrays


def _files(spec, split, data_dir) -> list[Any]:
  """What tells a split's files from others, of every version of the data set.

  It is compared without TensorFlow: their names, sizes, and checksums of how
  they begin, as images without compression are of one size.
  """
  directory = array_cache.data_root(data_dir) / spec.directory
  paths = sorted(directory.glob(f"[0-9]*/*-{split}.*"))
  files = records.names_and_sizes(paths)
  for file, path in zip(files, paths, strict=True):
    with path.open("rb") as opened:
      file.append(zlib.crc32(opened.read(_HEAD_BYTES)))
  return files


def _decode(spec, split, data_dir) -> array_cache.Arrays:
  builder = catalog.prepared_builder(spec, data_dir)
  count = catalog.split_info(spec, builder, split).num_examples
  if builder.info.file_format.value == "tfrecord":
    records.find_records(spec, builder, split)  # as many, and whole
  import tensorflow_datasets as tfds

  catalog.hide_accelerators_from_tensorflow()
  shape = builder.info.features["image"].shape
  arrays = {"image": np.empty((count, *shape), np.uint8)}
  for column in (catalog.CLEAN_LABEL, *spec.noisy_label_columns):
    arrays[column] = np.empty((count,), np.int32)
  examples = tfds.as_numpy(builder.as_dataset(split=split))
  with records.damage_is_named(spec, builder):
    for i, example in enumerate(examples):
      for name, array in arrays.items():
        array[i] = example[name]
  return arrays
