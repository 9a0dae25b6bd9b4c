"""Losses and errors on paths between the weights of two runs."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sam_jax.analysis import connectivity, measure_plots
from sam_jax.analysis.compare import Comparison, describe_examples
from sam_jax.analysis.landscape import direction_between
from sam_jax.analysis.measure import MeasuredRun, checksum
from sam_jax.analysis.objective import (
  Objective,
  network_errors,
  network_losses,
)


class PathValues(NamedTuple):
  """Means over examples at points of a path; nan where not finite.

  Attributes:
    losses: Losses in nats, float64 [points].
    errors: Error rates in [0, 1], float64 [points].
  """

  losses: np.ndarray
  errors: np.ndarray


def compare_connectivity(
  runs: Sequence[MeasuredRun],
  output: epath.Path,
  curves: Sequence[str],
  points: int,
  curve_steps: int,
  seed: int = 0,
) -> Comparison:
  """Measure paths from the first run to the second.

  Args:
    runs: Two runs.
    output: Directory of the picture.
    curves: Some of "line" and "bezier".
    points: Points of a path, its ends included.
    curve_steps: Training steps of the curve.
    seed: Seed of the training of the curve.

  Raises:
    ValueError: The networks differ.
  """
  start, end = runs
  positions = np.linspace(0, 1, points).tolist()
  found = {
    curve: _measure_path(start, end, curve, positions, curve_steps, seed)
    for curve in dict.fromkeys(curves)
  }
  lines = [
    _describe(f"{start.label} to {end.label}: {curve}", values)
    for curve, values in found.items()
  ]
  path = output / "connectivity.png"
  measure_plots.plot_paths(
    {curve: values.losses for curve, values in found.items()},
    {curve: values.errors for curve, values in found.items()},
    positions,
    f"From {start.label} (0) to {end.label} (1)\n"
    f"{describe_examples(runs)}; batch statistics of every point",
    path,
  )
  return Comparison(lines, [path])


def _measure_path(
  start: MeasuredRun,
  end: MeasuredRun,
  curve: str,
  positions: Sequence[float],
  curve_steps: int,
  seed: int,
) -> PathValues:
  """Measure a path on the examples of the first run."""
  variables, other = start.run.variables, end.run.variables
  direction_between(variables, other)  # raises if the networks differ
  model, preprocess = start.run.model, start.run.preprocess
  loss = start.run.loss
  network = connectivity.TrainModePass(model, preprocess, seed, loss)
  key = {"path": curve, "to": checksum(other), "batch_size": start.batch_size}
  if curve == "bezier":
    key |= {"steps": curve_steps, "seed": seed}

  @functools.cache  # nothing of it is computed if all results are cached
  def training_examples() -> dict[str, np.ndarray]:
    if start.split == "train":
      return start.examples
    return start.run.examples("train", len(start.examples["label"]))

  @functools.cache
  def objectives() -> tuple[Objective, Objective]:
    arguments = start.examples, start.batch_size
    return (
      Objective(network_losses(model, preprocess, loss), *arguments),
      Objective(network_errors(model, preprocess), *arguments),
    )

  @functools.cache
  def middle() -> Any:
    if curve == "line":
      ends = variables["params"], other["params"]
      return connectivity.midpoint(*ends)
    return connectivity.find_curve(
      network,
      variables,
      other,
      training_examples(),
      start.batch_size,
      steps=curve_steps,
      seed=seed,
    )

  def at_point(key: dict[str, Any], advance: Any) -> list[float]:
    params = connectivity.point_on_curve(
      variables["params"], middle(), other["params"], key["at"]
    )
    here = {**variables, "params": params}
    statistics = network.statistics(here, training_examples(), start.batch_size)
    here["batch_stats"] = statistics
    return [float(each.value(here)) for each in objectives()]

  results = start.results(
    f"{curve} to {end.label}",
    [key | {"at": at} for at in positions],
    at_point,
  )
  values = np.array(results, np.float64)
  return PathValues(values[:, 0], values[:, 1])


def _describe(name: str, values: PathValues) -> str:
  """Return the barriers of a path in words."""
  loss, error = map(connectivity.barrier, values)
  if not math.isfinite(loss):
    return f"{name}: not finite"
  return (
    f"{name}: barrier {loss:.4g} in loss, {100 * error:.2f} points in error"
    f" (highest loss {values.losses.max():.4g},"
    f" highest error {100 * values.errors.max():.2f}%)"
  )
