"""The data of a run, from the config to augmented batches on the devices."""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from sam_jax import buckets, paths
from sam_jax.augment import pipeline
from sam_jax.augment.resize import resize_bicubic
from sam_jax.datasets import image_files
from sam_jax.datasets.catalog import IMAGE_FOLDER, STREAM, DatasetSpec
from sam_jax.datasets.in_memory import InMemoryDataset, load_in_memory
from sam_jax.datasets.streaming import StreamingDataset, load_streaming
from sam_jax.runs import distributed
from sam_jax.training import build, parallel
from sam_jax.training.step import random_stream

Dataset = InMemoryDataset | StreamingDataset
Batch = tuple[int, Any]  # the step, and its arrays on the devices
T = TypeVar("T")

_DOWNLOADING_AT_ONCE = 8  # processes

PREPARED_AHEAD = 2  # batches that wait on the devices


def create_dataset(config: ConfigDict) -> Dataset:
  """Load the data set of a config, this host's view of it.

  Raises:
    DatasetError: It is missing, or the config asks for what it lacks.
  """
  spec, noise = build.dataset_spec(config), config.dataset.label_noise
  if config.dataset.data_dir:
    buckets.check(config.dataset.data_dir, "config.dataset.data_dir")
  fields = {
    "data_dir": config.dataset.data_dir,
    "validation_size": config.dataset.validation_size,
    "labels_path": config.dataset.label_file,
    "noise_rate": noise.rate,
    "noise_kind": noise.kind,
    "noise_seed": noise.seed,
    "batch_size": config.batch_size,
    "eval_batch_size": config.eval_batch_size or config.batch_size,
    "seed": config.seed,
    "process_index": jax.process_index(),
    "process_count": jax.process_count(),
  }
  # The official release always crops. The paper fine-tunes without crops.
  crops = config.augment.policy not in ("none", "aa-only")
  if spec.name == IMAGE_FOLDER:
    return image_files.load(
      spec,
      split_seed=config.dataset.split_seed,
      skips_broken=config.dataset.broken_images == "skip",
      crops_at_random=crops,
      **fields,
    )
  if spec.storage == STREAM:
    return load_streaming(spec, crops_at_random=crops, **fields)
  return load_in_memory(
    spec, part=config.dataset.part, parts=config.dataset.parts, **fields
  )


def create_dataset_on_all_hosts(config: ConfigDict) -> Dataset:
  """Load the data set; process 0 prepares what the others then find on disk.

  Hosts that share no disk download it themselves: a few at a time, or the
  server of the data would refuse them.
  """
  count, index = jax.process_count(), jax.process_index()
  if count == 1:
    return create_dataset(config)
  directory = config.dataset.data_dir or os.environ.get("TFDS_DATA_DIR", "")
  at_once = count if paths.is_remote(directory) else _DOWNLOADING_AT_ONCE
  whom = "process 0 to prepare the data set"
  for first in range(1 - at_once, count, at_once):
    if max(first, 0) <= index < first + at_once:
      dataset = create_dataset(config)
    distributed.wait_for_others(whom)
    whom = "other processes to load the data set"
  parallel.connect()
  return dataset


def train_batches(
  config: ConfigDict, dataset: Dataset, first_step: int, total_steps: int
) -> Iterator[Batch]:
  """Return (step, augmented batch on the devices), prepared two steps ahead.

  Returns:
    The step, from `first_step` to `total_steps` - 1, and its `image` float32
    [devices, n, H, W, C] and `target` float32 [devices, n, classes].
  """
  augment = map_augmentation(config, dataset.spec)
  batches = dataset.train_batches(first_step)
  return prepare_ahead(
    # A NumPy scalar: creating a jnp scalar would dispatch a separate program.
    (step, augment(parallel.shard(next(batches)), np.int32(step)))
    for step in range(first_step, total_steps)
  )


def prepare_ahead(batches: Iterable[T]) -> Iterator[T]:
  """Yield batches, each after the next ones were asked for."""
  ready: collections.deque[T] = collections.deque()
  for batch in batches:
    ready.append(batch)
    if len(ready) > PREPARED_AHEAD:
      yield ready.popleft()
  yield from ready


def map_augmentation(
  config: ConfigDict, spec: DatasetSpec
) -> Callable[[Any, Any], Any]:
  """Compile the augmentation for all devices.

  Returns:
    (batch on the devices, step) -> augmented batch on the devices.
  """
  program = parallel.map_over_devices(
    augment_fn(config, spec), in_axes=(0, None, None), out_axes=0
  )
  # An argument: runs with other seeds share the program.
  key = parallel.replicate(augmentation_key(config))
  return lambda batch, step: program(batch, step, key)


def augmentation_key(config: ConfigDict) -> jax.Array:
  """Return the random key of the augmentation, uint32 [2]."""
  return jax.random.key_data(random_stream(config.seed, "augment"))


def augment_fn(
  config: ConfigDict, spec: DatasetSpec
) -> Callable[[Any, Any, Any], Any]:
  """Build the augmentation of one device.

  Returns:
    (batch, step, random key uint32 [2]) -> augmented batch.
  """
  augmentation = build.augmentation(config, spec)

  def augment(batch, step, key):
    per_device = batch["label"].shape[0]
    images, targets = pipeline.augment(
      batch["image"],
      batch["label"],
      jax.random.fold_in(jax.random.wrap_key_data(key), step),
      jax.lax.axis_index(parallel.AXIS) * per_device,
      augmentation=augmentation,
      axis_name=parallel.AXIS,
    )
    # Last, as in google-research/sam: it augments images of their own size.
    images = resize_bicubic(images, *spec.image_shape[:2])
    rest = {k: v for k, v in batch.items() if k not in ("image", "label")}
    return {"image": images, "target": targets, **rest}

  return augment


def preview(
  batches: Iterator[Batch], spec: DatasetSpec
) -> tuple[np.ndarray, Iterator[Batch]]:
  """Look at the next batch, and put it back.

  All hosts must call it: they run the program together.

  Args:
    batches: See `train_batches`.
    spec: The data set.

  Returns:
    The batch's first images, see `to_pixels`, and all batches from it on.
  """
  step, batch = next(batches)
  images = to_pixels(parallel.fetch(batch["image"]), spec)
  # Of an iterator, which drops the batch when it is drawn; a list would not.
  return images, itertools.chain(iter([(step, batch)]), batches)


def to_pixels(
  images: np.ndarray, spec: DatasetSpec, count: int = 64
) -> np.ndarray:
  """Return the first images of a batch as people see them.

  Args:
    images: float32 [devices, n, H, W, C], normalized.
    spec: The data set.
    count: Number of images.

  Returns:
    uint8 [count, H, W, C].
  """
  first = np.concatenate(images)[:count]
  return pipeline.denormalize(first, spec.mean, spec.std)
