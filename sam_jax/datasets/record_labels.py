"""The labels of a streamed data set, which its records hold beside the images.

Reading them means reading everything, so it is done once.
"""

import logging
from typing import Any

import numpy as np
from etils import epath

from sam_jax.datasets import array_cache, catalog, records

logger = logging.getLogger(__name__)


def load_labels(
  spec: catalog.DatasetSpec, builder: Any, data_dir: str | None
) -> np.ndarray:
  """Loads the labels of the training splits, from a cache beside the data.

  Args:
    spec: The data set.
    builder: Its TFDS builder, prepared.
    data_dir: TFDS's data directory; None for its default.

  Returns:
    int32 [N], in the order of `RecordFiles`.

  Raises:
    DatasetError: A file of the data set is damaged.
  """
  labels = []
  for split in spec.train_splits:
    paths, source = records.split_files(spec, builder, split)
    cache = array_cache.cache_dir(data_dir, "labels", spec.name, split)
    arrays = array_cache.read_arrays(cache, source)
    if arrays is None:
      logger.info("Reading the labels of %s, %s, once.", spec.name, split)
      with records.damage_is_named(spec, builder):
        arrays = {"label": _read_labels(paths)}
      array_cache.write_arrays(cache, arrays, source)
    labels.append(arrays["label"])
  return np.concatenate(labels)


def _read_labels(paths: list[epath.Path]) -> np.ndarray:
  import tensorflow as tf

  feature = {catalog.CLEAN_LABEL: tf.io.FixedLenFeature([], tf.int64)}

  def parse(batch):
    return tf.io.parse_example(batch, feature)[catalog.CLEAN_LABEL]

  batches = tf.data.TFRecordDataset(paths).batch(64)
  batches = batches.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
  return np.concatenate(list(batches.as_numpy_iterator())).astype(np.int32)
