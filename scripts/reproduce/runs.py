"""The runs and measurements that studies ask for."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from scripts.reproduce.levels import Fields, Level

# The error of a run that diverged, or is not finished.
_CHANCE = 0.9


class Run(NamedTuple):
  """A run of the training loop.

  Attributes:
    fields: What it changes in the config of its level.
    source: The run that it starts from: its weights are the value of
      `pretrained`, or its predictions that of `dataset.label_file`.
  """

  fields: tuple[tuple[str, Any], ...]
  source: "Run | None" = None

  @property
  def key(self) -> str:
    """All that decides its result at a level, as a text."""
    text = " ".join(f"{name}={value}" for name, value in self.fields)
    return f"{text} from={self.source.name}" if self.source else text

  @property
  def name(self) -> str:
    """The name of its directory."""
    return hashlib.sha256(self.key.encode()).hexdigest()[:16]


class Measurement(NamedTuple):
  """A measurement of a trained network.

  Attributes:
    kind: Name of a function of `measurements.py`.
    run: The run.
    epoch: Epoch of a checkpoint; None for the last one.
  """

  kind: str
  run: Run
  epoch: int | None = None

  @property
  def key(self) -> str:
    """All that decides its result at a level, as a text."""
    at = "" if self.epoch is None else f" epoch={self.epoch}"
    return f"{self.kind}{at} of {self.run.key}"


class NotTrainedError(Exception):
  """A choice needs results of runs that are not finished."""


class Arm(NamedTuple):
  """A method with its hyperparameter, chosen on validation examples.

  Attributes:
    fields: What its runs change, the chosen value included.
    chosen: The chosen value; None if there is no choice.
    tried: Mean validation error in percent, by value.
    errors: Test errors [S] in percent.
    runs: The runs of all seeds [S].
  """

  fields: dict[str, Any]
  chosen: Any
  tried: dict[Any, float]
  errors: np.ndarray
  runs: list[Run]


class Runs:
  """Results by run, and the runs and measurements without one.

  Attributes:
    level: The size of the reproduction.
    wanted: Runs and measurements that were asked for and have no result.
    asked: All that were asked for.
  """

  def __init__(
    self,
    level: Level,
    find: Callable[[Run | Measurement], dict[str, Any] | None],
    *,
    planning: bool = False,
  ):
    """Take the results so far.

    Args:
      level: The size of the reproduction.
      find: Returns the result of a run or measurement, or None.
      planning: Ask for every run, as if all choices were made: their number
        does not depend on the choices.
    """
    self.level = level
    self.wanted: dict[str, Run | Measurement] = {}
    self.asked: dict[str, Run | Measurement] = {}
    self._find, self._planning = find, planning

  def result(self, job: Run | Measurement) -> dict[str, Any] | None:
    """Return the result of a run or measurement, or ask for it."""
    self.asked[job.key] = job
    source = job.run if isinstance(job, Measurement) else job.source
    is_ready = source is None or self.result(source) is not None
    if not is_ready and not self._planning:
      return None
    found = self._find(job)
    if found is None:
      self.wanted[job.key] = job
    return found

  def make(self, fields: Fields, seed: int, source: Run | None = None) -> Run:
    """Return a run of one seed.

    Args:
      fields: What it changes in the config of the level.
      seed: Seed of the initialization and the order, which also chooses the
        part of the training set and the draw of label noise.
      source: See `Run`.
    """
    parts = fields.get("dataset.parts", self.level.parts)
    own: dict[str, Any] = {"seed": seed}
    if folder := fields.get("dataset.data_dir"):
      own["dataset.data_dir"] = folder.format(seed=seed)
    if parts > 1:
      own["dataset.part"] = seed % parts
    if fields.get("dataset.label_noise.rate"):
      own["dataset.label_noise.seed"] = seed
    return Run(tuple(sorted({**fields, **own}.items())), source)

  def errors(self, runs: Iterable[Run], name: str = "error_rate") -> np.ndarray:
    """Return final errors of runs in percent.

    A run that diverged has the error of chance. So has one that is not
    finished: no result is read before all are.
    """
    results = [self.result(run) or {} for run in runs]
    return 100 * np.array([each.get(name, _CHANCE) for each in results])

  def arm(
    self,
    fields: Fields,
    axis: str = "",
    values: Sequence[Any] = (),
    sources: Sequence[Run | None] = (),
  ) -> Arm:
    """Return a method on all seeds, with the best value of one field.

    The value is chosen by the mean error on validation examples, after training
    on other images than those of the results.

    Args:
      fields: What all its runs change in the config of the level.
      axis: Name of the field to choose; "" for none.
      values: Values to choose from.
      sources: The runs [S] that those of the results start from; None for
        random weights, and no sources for as many seeds as the level has.

    Raises:
      NotTrainedError: The choice needs runs that are not finished.
    """
    tried = dict.fromkeys(values, 0.0)
    if len(values) > 1:
      source = sources[0] if sources else None
      runs_of = {x: self._tuning({**fields, axis: x}, source) for x in values}
      tried = {x: float(self.errors(runs_of[x]).mean()) for x in values}
      tuning = [run for runs in runs_of.values() for run in runs]
      if not self._planning and any(map(self._is_missing, tuning)):
        raise NotTrainedError
    chosen = min(tried, key=lambda value: tried[value]) if tried else None
    own = {**fields, axis: chosen} if axis else dict(fields)
    sources = sources or [None] * self.level.seeds
    runs = [self.make(own, seed, source) for seed, source in enumerate(sources)]
    return Arm(own, chosen, tried, self.errors(runs), runs)

  def _tuning(self, fields: Fields, source: Run | None) -> list[Run]:
    """Return the runs that choose a value, evaluated on held-out examples."""
    held_out = {"dataset.validation_size": self.level.validation, **fields}
    seeds = self.level.tuning_seeds
    return [self.make(held_out, seed, source) for seed in seeds]

  def _is_missing(self, run: Run) -> bool:
    return self.result(run) is None

  def sgd(self, changes: Fields | None = None) -> Arm:
    """Return SGD with the best learning rate.

    Args:
      changes: What it changes in the config of the level.
    """
    fields = {"sam.rho": 0.0, **(changes or {})}
    axis = "optimizer.learning_rate"
    return self.arm(fields, axis, self.level.learning_rates)

  def sam(
    self, changes: Fields | None = None, rhos: Sequence[float] = ()
  ) -> Arm:
    """Return SAM with the best rho, and the learning rate that is SGD's best.

    Args:
      changes: What it changes in the config of the level.
      rhos: Values of rho; none for those of the level.
    """
    rate = {"optimizer.learning_rate": self.sgd().chosen}
    fields = {**rate, **(changes or {})}
    return self.arm(fields, "sam.rho", rhos or self.level.rhos)
