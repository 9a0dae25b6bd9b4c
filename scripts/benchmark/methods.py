"""Errors of SGD, SAM and its cheap variants, at equal epochs and equal cost.

Every run is one of `sam_jax.train`: run the command again to resume. Learning
rate and rho are chosen together on validation images, for each method and noise
rate, at equal epochs. A large training set is cut into parts: each seed trains
on a part of its own.
"""

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sam_jax.config import schema
from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.reports.results import confidence_half_width
from sam_jax.runs.workdir import read_result
from sam_jax.training import together
from sam_jax.training.hooks import DivergedError
from scripts.benchmark import perceptron  # noqa: F401  its name is registered
from scripts.benchmark.method_costs import measure_costs

NOISE_RATES = (0.4, 0.0)
LEARNING_RATES = (0.01, 0.03, 0.1)

# Training images of a run, about; the digits have 1,442.
IMAGES = 1400


@dataclasses.dataclass(frozen=True)
class Method:
  """A method of the comparison.

  Attributes:
    fields: Its fields of a config.
    cost: Gradients of a step over those of SGD, to set the equal cost.
    rho_factor: Multiplies the radii to try.
  """

  fields: dict[str, Any]
  cost: float
  rho_factor: float = 1.0


METHODS = {
  "sgd": Method({"sam.rho": 0.0}, 1),
  "sam": Method({}, 2),
  "every 5": Method({"sam.every": 5}, 1.2),
  "look_sam 5": Method({"sam.method": "look_sam", "sam.every": 5}, 1.2),
  "ascent on 1/4": Method({"sam.ascent_fraction": 0.25}, 1.25),
  "ae_sam": Method({"sam.method": "ae_sam"}, 1.5),
  "momentum_sam": Method({"sam.method": "momentum_sam"}, 1, 4.0),
  "single_step_sam": Method({"sam.method": "single_step_sam"}, 1),
  "friendly_sam": Method({"sam.method": "friendly_sam"}, 2),
}


@dataclasses.dataclass(frozen=True)
class Size:
  """The number of runs, and their length.

  Attributes:
    epochs: Epochs of a run at equal epochs.
    seeds: Seeds of a result.
    tuning_seeds: Seeds that choose rho and the learning rate.
    rhos: Radii to try first, from small to large.
    validation: Training images to hold out for these choices.
  """

  epochs: int
  seeds: int
  tuning_seeds: int
  rhos: tuple[float, ...]
  validation: int = 300


SIZES = {
  "tiny": Size(15, 5, 6, (0.1, 0.3, 1.0)),
  "small": Size(30, 8, 4, (0.1, 0.2, 0.5, 1.0)),
  "full": Size(100, 10, 5, (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)),
}

# Radii to add, at most, where the smallest or the largest one is the best.
MORE_RHOS = 3


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Trains the runs of a comparison, in one program for each method.

  Attributes:
    dataset: Name of the data set.
    model: Name of the network.
    size: Number and length of the runs.
    root: Directory of the runs.
  """

  dataset: str
  model: str
  size: Size
  root: epath.Path

  def config(self, method: str, noise: float, **fields: Any) -> ConfigDict:
    """Return the config of a run."""
    config = default_config()
    config.dataset.name, config.model.name = self.dataset, self.model
    config.dataset.label_noise.rate = noise
    images = dataset_spec(self.dataset).train_examples or 0
    config.dataset.parts = max(1, images // IMAGES)
    config.batch_size, config.augment.policy = 64, "none"
    config.num_epochs = self.size.epochs
    schema.update(config, METHODS[method].fields | fields)
    config.dataset.part = config.seed % config.dataset.parts
    # The last evaluation counts, and nothing else needs the disk.
    config.eval_every_epochs = config.num_epochs
    config.checkpoint_every_epochs = float(config.num_epochs)
    config.log_every_steps = 1000
    return config

  def errors(
    self, method: str, noise: float, fields: Sequence[dict[str, Any]]
  ) -> list[float]:
    """Train runs of one method that differ in numbers; return their errors.

    Args:
      method: Name of the method.
      noise: Rate of label noise.
      fields: Fields of each run.

    Returns:
      Their error rates; 1 for a run that diverged.

    Raises:
      ConfigError, DatasetError: The first run that failed.
      SystemExit: The runs were asked to stop.
    """
    runs = []
    for each in fields:
      config = self.config(method, noise, **each)
      each = {"num_epochs": config.num_epochs} | each
      name = ",".join(f"{k.split('.')[-1]}={v}" for k, v in each.items())
      place = f"{self.dataset}-{self.model}-{noise}-{method}".replace("/", ":")
      runs.append((config, self.root / place.replace(" ", "_") / name))
    missing = [run for run in runs if not (run[1] / "result.json").exists()]
    diverged = 0
    if missing:
      print(f"{method}, noise {noise}: {len(missing)} runs", file=sys.stderr)
      for failure in together.train_and_evaluate(missing):
        if not isinstance(failure, DivergedError):
          raise failure
        diverged += 1
    results = [read_result(workdir) for _, workdir in runs]
    if results.count(None) > diverged:
      raise SystemExit("Stopped; the same command resumes.")
    return [result["error_rate"] if result else 1.0 for result in results]

  def choose(self, method: str, noise: float) -> dict[str, float]:
    """Return the learning rate and rho of the lowest error on validation.

    Returns:
      Fields of a config.
    """
    found = []
    for rate in LEARNING_RATES:
      error, rho = self.tune(method, noise, rate)
      fields = {"optimizer.learning_rate": rate, "sam.rho": rho}
      found.append((error, fields))
    return min(found, key=lambda pair: pair[0])[1]

  def tune(
    self, method: str, noise: float, learning_rate: float
  ) -> tuple[float, float]:
    """Return the lowest mean error on validation images, and its radius.

    A best radius at an end of the grid could be better still beyond it, so
    the grid grows there.
    """
    radii = [rho * METHODS[method].rho_factor for rho in self.size.rhos]
    if method == "sgd":
      radii = [0.0]
    means: dict[float, float] = {}
    for _ in range(1 + MORE_RHOS):
      new = [rho for rho in radii if rho not in means]
      means |= self.validate(method, noise, learning_rate, new)
      best = min(means, key=means.__getitem__)
      if method == "sgd" or radii[0] < best < radii[-1]:
        break
      if best == radii[0]:
        radii.insert(0, _round(best**2 / radii[1]))
      else:
        radii.append(_round(best**2 / radii[-2]))
    return means[best], best

  def validate(
    self,
    method: str,
    noise: float,
    learning_rate: float,
    radii: Sequence[float],
  ) -> dict[float, float]:
    """Return the mean error on validation images for each radius."""
    seeds = range(self.size.tuning_seeds)
    fields = {
      "optimizer.learning_rate": learning_rate,
      "dataset.validation_size": self.size.validation,
    }
    errors = self.errors(
      method,
      noise,
      [
        {**fields, "sam.rho": rho, "seed": 1000 + seed}
        for rho, seed in itertools.product(radii, seeds)
      ],
    )
    means = np.reshape(errors, (len(radii), len(seeds))).mean(axis=1)
    return dict(zip(radii, means.tolist(), strict=True))

  def test(
    self, method: str, noise: float, epochs: int, **fields: Any
  ) -> list[float]:
    """Return the errors on the test set, in percent."""
    runs = [
      {**fields, "num_epochs": epochs, "seed": seed}
      for seed in range(self.size.seeds)
    ]
    return [100 * error for error in self.errors(method, noise, runs)]


def measure_methods(
  comparison: Comparison, rounds: int
) -> list[dict[str, Any]]:
  """Compare all methods.

  Returns:
    A row for each noise rate and method.
  """
  rows: list[dict[str, Any]] = []
  size, most = comparison.size, max(m.cost for m in METHODS.values())
  for noise in NOISE_RATES:
    chosen = {name: comparison.choose(name, noise) for name in METHODS}
    costs = measure_costs(
      {
        name: comparison.config(name, noise, **fields)
        for name, fields in chosen.items()
      },
      rounds,
    )
    for name, fields in chosen.items():
      longer = round(size.epochs * most / METHODS[name].cost)
      row: dict[str, Any] = {"noise": noise, "method": name}
      row["learning rate"] = fields["optimizer.learning_rate"]
      row["rho"] = fields["sam.rho"]
      row |= costs[name]
      for title, epochs in (
        ("equal epochs", size.epochs),
        ("equal cost", longer),
      ):
        row[title] = comparison.test(name, noise, epochs, **fields)
      rows.append(row | {"longer epochs": longer})
  return rows


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
  """Return the rows for people: means, intervals and differences to SGD."""
  sgd = {row["noise"]: row for row in rows if row["method"] == "sgd"}
  return [
    {
      "noise": f"{row['noise']:.0%}",
      "method": row["method"],
      "learning rate": f"{row['learning rate']:g}",
      "rho": f"{row['rho']:g}",
      "time": f"{_median(row['time']):.2f}",
      "FLOPs": f"{row['flops']:.2f}",
      "memory": f"{row['memory']:.2f}",
      "error %": _mean(row["equal epochs"]),
      "minus SGD": _difference(row, sgd[row["noise"]], "equal epochs"),
      "error % at equal cost": _mean(row["equal cost"]),
      "minus SGD at equal cost": _difference(
        row, sgd[row["noise"]], "equal cost"
      ),
    }
    for row in rows
  ]


def _round(value: float) -> float:
  return float(f"{value:.2g}")


def _median(time: Any) -> float:
  return time["median"] if isinstance(time, dict) else time.median


def _mean(errors: Sequence[float]) -> str:
  return f"{statistics.mean(errors):.2f} ± {confidence_half_width(errors):.2f}"


def _difference(row, sgd, title) -> str:
  """Return the mean difference of runs with the same seed."""
  if row is sgd:
    return ""
  pairs = zip(row[title], sgd[title], strict=True)
  return _mean([a - b for a, b in pairs])
