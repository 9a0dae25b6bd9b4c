"""Measure images a second of the input pipeline, on host and device."""

import contextlib
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sam_jax.augment import policies
from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.training import input_pipeline, parallel
from sam_jax.training.input_pipeline import Dataset
from scripts.benchmark import (
  input_peers,
  input_sources,
  program_costs,
  timing,
)
from scripts.benchmark.timing import interleave, ratio, spread
from scripts.benchmark.training_task import RHO, TrainingTask

# More batches than a pipeline prepares ahead at any time.
_BATCHES_AHEAD = _BATCHES_OF_A_ROUND = 8


def measure_input(batch: int, rounds: int) -> list[dict[str, Any]]:
  """Measure the parts of the input pipeline separately.

  Args:
    batch: Images of a batch; rounds time a few batches each.
    rounds: Number of times to measure each part.

  Returns:
    A row for every part. The host indexes (CIFAR), or reads, decodes and crops
    at random (ImageNet); the part of the device includes the transfer. Other
    libraries that decode the same JPEGs follow, and the names of those that
    are not installed.
  """
  rows = measure_source(
    "CIFAR-10", input_sources.random_cifar(batch), batch, rounds
  )
  generator = np.random.default_rng(0)
  photos = [input_sources.random_photo(generator) for _ in range(32)]
  found, missing = input_peers.peers()
  with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    dataset = input_sources.random_imagenet(directory, photos, batch)
    peers = {
      peer: create(photos, batch, directory) for peer, create in found.items()
    }
    rows += measure_source("ImageNet", dataset, batch, rounds, peers=peers)
  return [*rows, *({"not installed, skipped": name} for name in missing)]


def measure_source(
  name: str,
  dataset: Dataset,
  batch: int,
  rounds: int,
  augmentations: Sequence[str] = ("basic", "autoaugment"),
  peers: Mapping[str, Iterator[Any]] | None = None,
) -> list[dict[str, Any]]:
  """Measure the parts of the input pipeline of one data set.

  Seconds are those of the processor, which a busy machine leaves as they are;
  those of accelerators are seconds on the wall.

  Args:
    name: Name in the rows.
    dataset: The data set.
    batch: Images of its batches.
    rounds: Number of times to measure each part.
    augmentations: Values of `config.augment.policy`.
    peers: Other streams of batches of the same size.

  Returns:
    A row of images a second for the host, with their ratio to those of each
    peer, for each peer, and for each policy on the devices.
  """
  with contextlib.ExitStack() as stack:
    streams: dict[str, Any] = {
      "host": dataset.train_batches(0),
      **(peers or {}),
    }
    for stream in streams.values():
      stack.enter_context(contextlib.closing(stream))
    examples = next(streams["host"])
    for stream in streams.values():
      _take(stream, _BATCHES_AHEAD)
    takes = {part: _take_fn(stream) for part, stream in streams.items()}
    host = interleave(takes, rounds, time.process_time)
  # The batches are closed: reading ahead would take the devices' cores.
  parts = {
    f"device, {policy}": _augment_on_devices(dataset.spec, policy, examples)
    for policy in augmentations
  }
  on_cpu = jax.default_backend() == "cpu"
  device = interleave(parts, rounds, time.process_time if on_cpu else None)
  images = batch * _BATCHES_OF_A_ROUND
  return [
    {
      "input": name,
      "part": part,
      "images/s": spread([images / s for s in seconds]),
      "host over it": ratio(seconds, host["host"]) if part in host else None,
    }
    for part, seconds in {**host, **device}.items()
  ]


def _take_fn(stream: Iterator[Any]) -> Callable[[], None]:
  """Return a function that takes batches until the stream is as far ahead."""

  def take() -> None:
    _take(stream, _BATCHES_OF_A_ROUND)
    timing.wait_until_idle()

  return take


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


def _augment_on_devices(
  spec: DatasetSpec, policy: str, batch: dict[str, np.ndarray]
) -> Callable[[], Any]:
  """Build a function that sends batches to the devices and augments them."""
  config = default_config()
  config.augment.policy = policy
  augment = input_pipeline.map_augmentation(config, spec)
  steps = itertools.count()

  def run() -> None:
    for _ in range(_BATCHES_OF_A_ROUND):
      images = augment(parallel.shard(batch), np.int32(next(steps)))
      jax.block_until_ready(images)

  return run


def _take(batches: Iterator[Any], count: int) -> None:
  for _ in range(count):
    next(batches)
