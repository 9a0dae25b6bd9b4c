"""The training loop against the bare step."""

import pytest

from sam_jax.training import input_pipeline
from scripts.benchmark import loops, timing
from tests import tiny
from tests.benchmark.fakes import FakeTime

TICK = 0.05


@pytest.fixture
def clock(monkeypatch):
  """A clock that moves by a tick when it is read."""
  clock = FakeTime(TICK)
  monkeypatch.setattr(loops, "time", clock)
  monkeypatch.setattr(timing, "time", clock)
  return clock


def test_loop_that_waits_for_data_loses(clock, monkeypatch):
  def create_dataset(config):
    """Return a data set whose batches take a tenth of a second each."""
    dataset = tiny.create_dataset(config)
    batches = dataset.train_batches

    def slow(first_step):
      for batch in batches(first_step):
        clock.now += 0.1
        yield batch

    dataset.train_batches = slow
    return dataset

  monkeypatch.setattr(input_pipeline, "create_dataset", create_dataset)
  monkeypatch.setattr(loops, "_LEAD", 3)
  config = tiny.create_config()
  (row,) = loops.measure_loop(config, steps=4, rounds=2)
  # Two stretches of four batches each; bare steps take no time but the tick.
  seconds = 4 * 0.1 + TICK
  assert row["loop images/s"] == pytest.approx((4 * 16 / seconds,) * 3)
  assert row["bare images/s"] == pytest.approx((4 * 16 / TICK,) * 3)
  assert row["loop over bare"] == pytest.approx((TICK / seconds,) * 3)
  assert config == tiny.create_config()  # not changed
