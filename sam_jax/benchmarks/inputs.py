"""Images a second of the input pipeline: of the host, and of the device."""

import contextlib
import functools
import io
import itertools
import pathlib
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from sam_jax.augment import policies
from sam_jax.benchmarks.timing import interleave, spread
from sam_jax.benchmarks.workload import Workload, lower_step
from sam_jax.datasets.catalog import dataset_spec, tfds_builder
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.datasets.streaming import load_streaming
from sam_jax.training.config import default_config
from sam_jax.training.devices import LocalDevices

_SAMPLING = {"eval_batch_size": 128, "seed": 0}
# ImageNet's mean size; at this quality random texture takes its 110 kB.
_JPEG_SIZE, _JPEG_QUALITY, _NUM_JPEGS = (400, 350), 90, 256


def measure_input(batch: int, rounds: int) -> list[dict[str, Any]]:
  """Measures the parts of the input pipeline, each by itself.

  Args:
    batch: Images of a batch; rounds time a few batches each.
    rounds: How often to time.

  Returns:
    A row for every part. The host's is indexing (CIFAR), or reading, decoding
    and a random crop (ImageNet); the device's includes the transfer.
  """
  rows = []
  with tempfile.TemporaryDirectory() as directory:
    sources = {
      "CIFAR-10": _random_cifar(batch),
      "ImageNet": _random_imagenet(pathlib.Path(directory), batch),
    }
    for name, dataset in sources.items():
      batches = dataset.train_batches(0)
      parts = {"host": functools.partial(_take, batches, 4)}
      examples = next(batches)
      for policy in ("basic", "autoaugment"):
        augment = _device_part(dataset.spec, policy, examples)
        parts[f"device, {policy}"] = augment
      seconds = interleave(parts, rounds)
      for part, values in seconds.items():
        count = 4 * batch if part == "host" else batch
        rate = spread([count / s for s in values])
        rows.append({"input": name, "part": part, "images/s": rate})
  return rows


def autoaugment_flops() -> dict[str, float]:
  """Compares AutoAugment of a CIFAR image with a SAM step of WRN-28-10.

  As accelerators run it: every operation on every image, then a choice.

  Returns:
    MFLOP of an image of both, and their ratio.
  """
  operate = functools.partial(
    policies.autoaugment, policy="cifar10", translate_const=250
  )
  images = jax.ShapeDtypeStruct((8, 32, 32, 3), np.uint8)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))
  policy = jax.jit(jax.vmap(operate)).lower(images, keys)
  workload = Workload(batch=8)
  recipe = workload.recipe(1, 0.05)
  state = jax.eval_shape(lambda: workload.create_state(recipe))
  step = lower_step(recipe, state, workload.random_batch(1), 1)
  augment, train = (
    lowered.cost_analysis()["flops"] / 8e6 for lowered in (policy, step)
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
