"""Alternatives are timed in turn."""

import pytest

from scripts.benchmark import timing
from tests.benchmark.fakes import FakeTime


def test_alternatives_are_timed_there_and_back(monkeypatch):
  clock, calls = FakeTime(), []
  monkeypatch.setattr(timing, "time", clock)

  def alternative(name, seconds):
    def run():
      calls.append(name)
      clock.now += seconds * (100 if len(calls) <= 2 else 1)

    return run

  found = timing.interleave(
    {"a": alternative("a", 1.0), "b": alternative("b", 2.0)}, rounds=2
  )
  assert calls == ["a", "b", "b", "a", "a", "b"]
  # The slow first round does not count.
  assert found == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
  assert timing.ratio(found["b"], found["a"]) == (2.0, 2.0, 2.0)


def test_spread_is_the_median_with_quartiles():
  values = [5.0, 1.0, 2.0, 4.0, 3.0]
  assert timing.spread(values) == pytest.approx((3.0, 2.0, 4.0))


def test_work_in_the_background_is_waited_for(monkeypatch):
  clock = FakeTime(tick=0.01, busy_until=0.4)
  monkeypatch.setattr(timing, "time", clock)
  timing.wait_until_idle()
  assert 0.4 < clock.now < 1.0


def test_work_that_does_not_end_is_not_waited_for(monkeypatch):
  clock = FakeTime(tick=0.01, busy_until=1e9)
  monkeypatch.setattr(timing, "time", clock)
  timing.wait_until_idle(seconds=2.0)
  assert 2.0 < clock.now < 3.0
