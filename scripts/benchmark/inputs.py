"""Images a second of the input pipeline: of the host, and of the device."""

import contextlib
import functools
import io
import itertools
import pathlib
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from sam_jax.augment import policies
from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.datasets.streaming import load_streaming
from sam_jax.datasets.tfds_files import tfds_builder
from sam_jax.training.loop import Dataset
from sam_jax.training.parallel import LocalDevices
from scripts.benchmark.steps import RHO
from scripts.benchmark.timing import interleave, spread
from scripts.benchmark.workload import Workload

_SAMPLING = {"eval_batch_size": 128, "seed": 0}
# ImageNet's mean size; at this quality random texture takes its 110 kB.
_JPEG_SIZE, _JPEG_QUALITY, _NUM_JPEGS = (400, 350), 90, 256
# More batches than a pipeline has ready, or in the making, at any time.
_NUM_AHEAD = _BATCHES_OF_A_ROUND = 8


def measure_input(batch: int, rounds: int) -> list[dict[str, Any]]:
  """Measures the parts of the input pipeline, each by itself.

  Args:
    batch: Images of a batch; rounds time a few batches each.
    rounds: How often to time.

  Returns:
    A row for every part. The host's is indexing (CIFAR), or reading, decoding
    and a random crop (ImageNet); the device's includes the transfer.
  """
  with tempfile.TemporaryDirectory() as directory:
    sources = {
      "CIFAR-10": _random_cifar(batch),
      "ImageNet": _random_imagenet(pathlib.Path(directory), batch),
    }
    rows = []
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
  """Measures the parts of the input pipeline of one data set.

  Args:
    name: For the rows.
    dataset: The data set.
    batch: Images of its batches.
    rounds: How often to time.
    augmentations: Values of `config.augment.policy`.

  Returns:
    A row of images a second for the host, and for each policy on the devices.
  """
  with contextlib.closing(dataset.train_batches(0)) as batches:
    examples = next(batches)
    host = _time_host(batches, rounds)
  # By now nothing reads ahead, which would take the devices' cores.
  parts = {
    f"device, {policy}": _device_part(dataset.spec, policy, examples)
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
  """Seconds of a batch, in rounds that follow each other without a pause.

  What was read ahead before comes first and does not count; afterwards every
  batch is waited for.
  """
  _take(batches, _NUM_AHEAD)
  seconds = []
  for _ in range(rounds):
    started = time.perf_counter()
    _take(batches, _BATCHES_OF_A_ROUND)
    seconds.append((time.perf_counter() - started) / _BATCHES_OF_A_ROUND)
  return seconds


def autoaugment_flops() -> dict[str, float]:
  """Compares AutoAugment of a CIFAR image with a SAM step of WRN-28-10.

  As accelerators run it: every operation on every image, then a choice.

  Returns:
    MFLOP of an image of both, and their ratio.
  """
  operate = functools.partial(policies.autoaugment, policy="cifar10")
  workload = Workload(model="wrn28_10", batch=8)
  count = workload.batch
  images = jax.ShapeDtypeStruct((count, 32, 32, 3), np.uint8)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
  policy = jax.jit(jax.vmap(operate)).lower(images, keys)
  recipe = workload.recipe(RHO)
  step = workload.lower_step(recipe, workload.state_shapes(recipe))
  augment, train = (
    lowered.cost_analysis()["flops"] / (count * 1e6)
    for lowered in (policy, step)
  )
  return {
    "AutoAugment MFLOP/image": augment,
    "SAM step MFLOP/image": train,
    "ratio": augment / train,
  }


def _random_cifar(batch: int) -> InMemoryDataset:
  """CIFAR-10's training set in size and shape."""
  generator = np.random.default_rng(0)
  images = generator.integers(256, size=(50_000, 32, 32, 3), dtype=np.uint8)
  examples = images, generator.integers(10, size=50_000, dtype=np.int32)
  return InMemoryDataset(
    dataset_spec("cifar10"), examples, examples, batch_size=batch, **_SAMPLING
  )


def _random_imagenet(directory: pathlib.Path, batch: int) -> Any:
  """Prepares JPEGs of ImageNet's size through TFDS, from ImageNet's archives.

  Its training set is one class over and over, as many images as a batch needs.
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
    **_SAMPLING,
  )


def _photo(generator: np.random.Generator) -> bytes:
  """A JPEG with detail at several scales, as photographs have."""
  width, height = _JPEG_SIZE
  pixels = np.zeros((height, width, 3))
  for side in (8, 32, 128):
    coarse = generator.integers(256, size=(side, side, 3), dtype=np.uint8)
    layer = Image.fromarray(coarse).resize(_JPEG_SIZE, Image.BICUBIC)
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


def _device_part(spec: Any, policy: str, batch: dict[str, np.ndarray]) -> Any:
  """A function that sends a batch to the devices and augments it there."""
  config = default_config()
  config.augment.policy = policy
  augment = LocalDevices().augment_fn(config, spec)
  steps = itertools.count()
  return lambda: augment(next(steps), batch)


def _take(batches: Iterator[Any], count: int) -> None:
  for _ in range(count):
    next(batches)
