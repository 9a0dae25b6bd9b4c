"""Measure images a second of the input pipeline, on host and device."""

import contextlib
import io
import itertools
import pathlib
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from sam_jax.augment import policies
from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import DatasetSpec, dataset_spec
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.datasets.streaming import StreamingDataset, load_streaming
from sam_jax.datasets.tfds_files import tfds_builder
from sam_jax.training import input_pipeline, parallel
from sam_jax.training.input_pipeline import Dataset
from scripts.benchmark import program_costs
from scripts.benchmark.timing import interleave, spread
from scripts.benchmark.training_task import RHO, TrainingTask

_EVAL_BATCH = 128  # never read
# ImageNet's mean size. At this quality random texture takes its 110 kB.
_JPEG_SIZE, _JPEG_QUALITY, _NUM_JPEGS = (400, 350), 90, 256
# More batches than a pipeline prepares ahead at any time.
_BATCHES_AHEAD = _BATCHES_OF_A_ROUND = 8


def measure_input(batch: int, rounds: int) -> list[dict[str, Any]]:
  """Measure the parts of the input pipeline separately.

  Args:
    batch: Images of a batch; rounds time a few batches each.
    rounds: Number of times to measure each part.

  Returns:
    A row for every part. The host indexes (CIFAR), or reads, decodes and crops
    at random (ImageNet); the part of the device includes the transfer.
  """
  with tempfile.TemporaryDirectory() as directory:
    sources: dict[str, Dataset] = {
      "CIFAR-10": _random_cifar(batch),
      "ImageNet": _random_imagenet(pathlib.Path(directory), batch),
    }
    rows: list[dict[str, Any]] = []
    for name, dataset in sources.items():
      rows += measure_source(name, dataset, batch, rounds)
  return rows


def measure_source(
  name: str,
  dataset: Dataset,
  batch: int,
  rounds: int,
  augmentations: Sequence[str] = ("basic", "autoaugment"),
) -> list[dict[str, Any]]:
  """Measure the parts of the input pipeline of one data set.

  Args:
    name: Name in the rows.
    dataset: The data set.
    batch: Images of its batches.
    rounds: Number of times to measure each part.
    augmentations: Values of `config.augment.policy`.

  Returns:
    A row of images a second for the host, and for each policy on the devices.
  """
  batches: Any = dataset.train_batches(0)
  with contextlib.closing(batches):
    examples = next(batches)
    host = _time_host(batches, rounds)
  # The batches are closed: reading ahead would take the devices' cores.
  parts = {
    f"device, {policy}": _augment_on_devices(dataset.spec, policy, examples)
    for policy in augmentations
  }
  seconds = {"host": host, **interleave(parts, rounds)}
  return [
    {
      "input": name,
      "part": part,
      "images/s": spread([batch / s for s in values]),
    }
    for part, values in seconds.items()
  ]


def _time_host(batches: Iterator[Any], rounds: int) -> list[float]:
  """Return the seconds of a batch in each of several rounds without a pause.

  Batches that were read ahead come first and do not count.
  """
  _take(batches, _BATCHES_AHEAD)
  seconds = []
  for _ in range(rounds):
    started = time.perf_counter()
    _take(batches, _BATCHES_OF_A_ROUND)
    seconds.append((time.perf_counter() - started) / _BATCHES_OF_A_ROUND)
  return seconds


def autoaugment_flops() -> dict[str, float]:
  """Compare AutoAugment of a CIFAR image with a SAM step of WRN-28-10.

  AutoAugment counts as TPUs run it: every operation on every image, then a
  choice.

  Returns:
    MFLOP of an image of both, and their ratio.
  """

  @jax.jit
  @jax.vmap
  def operate(image: jax.Array, key: jax.Array) -> jax.Array:
    return policies.autoaugment(image[None], key[None], policy="cifar10")

  task = TrainingTask(model="wrn28_10", batch=8)
  count = task.batch
  images = jax.ShapeDtypeStruct((count, 32, 32, 3), np.uint8)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
  policy = operate.trace(images, keys).lower(lowering_platforms=("tpu",))
  parts = task.parts(RHO)
  step = task.lower_step(parts, task.state_shapes(parts))
  augment, train = (
    program_costs.flops(lowered) / (count * 1e6) for lowered in (policy, step)
  )
  return {
    "AutoAugment MFLOP/image": augment,
    "SAM step MFLOP/image": train,
    "ratio": augment / train,
  }


def _random_cifar(batch: int) -> InMemoryDataset:
  """Create random images, as many and as large as CIFAR-10's."""
  generator = np.random.default_rng(0)
  images = generator.integers(256, size=(50_000, 32, 32, 3), dtype=np.uint8)
  examples = images, generator.integers(10, size=50_000, dtype=np.int32)
  return InMemoryDataset(
    dataset_spec("cifar10"),
    examples,
    examples,
    batch_size=batch,
    eval_batch_size=_EVAL_BATCH,
    seed=0,
  )


def _random_imagenet(directory: pathlib.Path, batch: int) -> StreamingDataset:
  """Prepare JPEGs of ImageNet's size through TFDS, from ImageNet's archives.

  Its training set is a single class, with as many images as a batch needs.
  """
  generator = np.random.default_rng(0)
  photos = [_photo(generator) for _ in range(32)]
  count = max(_NUM_JPEGS, 4 * batch)
  synset = "n01440764"
  members = {
    f"{synset}_{i}.JPEG": photos[i % len(photos)] for i in range(count)
  }
  train = {f"{synset}.tar": _tar(members)}
  (directory / "ILSVRC2012_img_train.tar").write_bytes(_tar(train))
  validation = {"ILSVRC2012_val_00000001.JPEG": photos[0]}
  (directory / "ILSVRC2012_img_val.tar").write_bytes(_tar(validation))
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  spec = dataset_spec("imagenet2012")
  builder = tfds_builder(spec, str(directory / "tfds"))
  with contextlib.redirect_stdout(None):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=directory)
    )
  return load_streaming(
    spec.with_image_size(224),
    data_dir=str(directory / "tfds"),
    validation_size=0,
    crops_at_random=True,
    batch_size=batch,
    eval_batch_size=_EVAL_BATCH,
    seed=0,
  )


def _photo(generator: np.random.Generator) -> bytes:
  """Create a JPEG with detail at several scales, as in photographs."""
  width, height = _JPEG_SIZE
  pixels = np.zeros((height, width, 3))
  for side in (8, 32, 128):
    coarse = generator.integers(256, size=(side, side, 3), dtype=np.uint8)
    layer = Image.fromarray(coarse).resize(_JPEG_SIZE, Image.Resampling.BICUBIC)
    pixels += np.asarray(layer) / 3
  pixels += generator.normal(0, 12, pixels.shape)
  file = io.BytesIO()
  image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
  image.save(file, "JPEG", quality=_JPEG_QUALITY)
  return file.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w") as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return file.getvalue()


def _augment_on_devices(
  spec: DatasetSpec, policy: str, batch: dict[str, np.ndarray]
) -> Callable[[], Any]:
  """Build a function that sends a batch to the devices and augments it."""
  config = default_config()
  config.augment.policy = policy
  augment = input_pipeline.map_augmentation(config, spec)
  steps = itertools.count()
  return lambda: augment(parallel.shard(batch), np.int32(next(steps)))


def _take(batches: Iterator[Any], count: int) -> None:
  for _ in range(count):
    next(batches)
