"""Images a second of the input pipeline, and of other libraries."""

import itertools
import sys

import numpy as np
import pytest

from sam_jax.datasets.catalog import dataset_spec
from scripts.benchmark import input_peers, input_sources, inputs, timing
from tests.benchmark.fakes import FakeTime


class ReadAhead:
  """A source of batches: eight are ready, the others take 10 ms each."""

  spec = dataset_spec("digits")

  def __init__(self, clock):
    self.clock = clock

  def train_batches(self, first_step):
    images = np.zeros((8, 8, 8, 1), np.uint8)
    for number in itertools.count(first_step):
      self.clock.work(0.0 if number < 8 else 0.01)
      yield {"image": images, "label": np.zeros(8, np.int32)}


def test_input_is_timed_by_the_processor_and_compared(monkeypatch):
  clock = FakeTime()
  monkeypatch.setattr(inputs, "time", clock)
  monkeypatch.setattr(timing, "time", clock)

  def slower():
    while True:
      yield clock.work(0.02)

  def augment_on_devices(*_):
    return lambda: clock.work(0.5)

  monkeypatch.setattr(inputs, "_augment_on_devices", augment_on_devices)
  host, peer, device = inputs.measure_source(
    "digits",
    ReadAhead(clock),
    batch=8,
    rounds=3,
    augmentations=["none"],
    peers={"slower": slower()},
  )
  assert host["images/s"] == pytest.approx((8 / 0.01,) * 3)
  assert peer["images/s"] == pytest.approx((8 / 0.02,) * 3)
  assert peer["host over it"] == pytest.approx((2.0,) * 3)
  assert device["part"] == "device, none"
  assert device["images/s"] == pytest.approx((8 * 8 / 0.5,) * 3)


def test_devices_augment_the_batch():
  examples = next(ReadAhead(FakeTime()).train_batches(0))
  inputs._augment_on_devices(ReadAhead.spec, "none", examples)()


def test_peers_crop_photos_and_missing_libraries_are_named(
  monkeypatch, tmp_path
):
  monkeypatch.setattr(input_peers, "_NUM_WINDOWS", 3)
  monkeypatch.setitem(sys.modules, "cv2", None)  # not installed
  found, missing = input_peers.peers()
  assert "OpenCV" in missing and "Grain, ArrayRecord and OpenCV" in missing
  assert list(found) == ["TensorFlow's decode, crop, resize alone", "Pillow"]
  photos = [input_sources.random_photo(np.random.default_rng(0))]
  batches = [next(peer(photos, 2, tmp_path)) for peer in found.values()]
  for batch in batches:
    assert batch.shape == (2, 224, 224, 3) and batch.dtype == np.uint8
  # The same windows, by kernels that differ a little.
  tensorflow, pillow = (batch.astype(float) for batch in batches)
  assert np.abs(tensorflow - pillow).mean() < 20
