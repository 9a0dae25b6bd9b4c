"""Images a second of the input pipeline."""

import numpy as np
import pytest

from sam_jax.datasets.catalog import dataset_spec
from scripts.benchmark import inputs, timing
from tests.benchmark.fakes import FakeTime


class ReadAhead:
  """A source of batches: eight are ready, the others take 10 ms each."""

  spec = dataset_spec("digits")

  def __init__(self, clock):
    self.clock = clock

  def train_batches(self, first_step):
    images = np.zeros((8, 8, 8, 1), np.uint8)
    for number in range(first_step, 100):
      self.clock.now += 0.0 if number < 8 else 0.01
      yield {"image": images, "label": np.zeros(8, np.int32)}


def test_input_does_not_count_batches_that_were_read_ahead(monkeypatch):
  clock = FakeTime()
  monkeypatch.setattr(inputs, "time", clock)
  monkeypatch.setattr(timing, "time", FakeTime(tick=0.5))
  host, device = inputs.measure_source(
    "digits", ReadAhead(clock), batch=8, rounds=3, augmentations=["none"]
  )
  assert host["images/s"] == pytest.approx((8 / 0.01,) * 3)
  assert device["part"] == "device, none"
  assert device["images/s"] == pytest.approx((8 / 0.5,) * 3)
