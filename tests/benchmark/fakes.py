"""A task that takes no time, and a clock that only tests move."""

from scripts.benchmark.training_task import TrainingTask

TASK = TrainingTask(model="cnn4", dataset="digits", batch=4)


class FakeTime:
  """Stands in for the module `time`.

  Attributes:
    now: Seconds on the clock; a reading takes `tick` seconds.
    tick: See `now`.
    busy_until: Until then sleeping takes processor time as well.
  """

  def __init__(self, tick=0.0, busy_until=0.0):
    self.now, self.tick, self.busy_until = 0.0, tick, busy_until
    self._cpu = 0.0

  def perf_counter(self):
    self.now += self.tick
    return self.now

  def process_time(self):
    return self._cpu

  def work(self, seconds):
    """Take time of the processor."""
    self._cpu += seconds

  def sleep(self, seconds):
    self._cpu += min(seconds, max(0.0, self.busy_until - self.now))
    self.now += seconds
