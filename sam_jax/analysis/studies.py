"""What there is to know about a trained run, measured piece by piece.

Every function takes saved pieces for what they are, and computes and saves the
others; it is deterministic, but for the seconds of a probe.
"""

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sam_jax.analysis import hessian, landscape
from sam_jax.analysis.objective import Objective
from sam_jax.analysis.pieces import Pieces
from sam_jax.analysis.runs import TrainedRun
from sam_jax.analysis.sharpness import m_sharpness_fn, sharpness

logger = logging.getLogger(__name__)

# Directions of `losses_on_line`.
LINES = ("random", "sam")


class Subject(NamedTuple):
  """A run, the examples to look at it with, and what is known already."""

  label: str
  run: TrainedRun
  examples: dict[str, np.ndarray]  # image and label
  batch_size: int  # over all devices
  pieces: Pieces

  @property
  def params(self) -> Any:
    """Where to look."""
    return self.run.params

  def objective(self) -> Objective:
    """Mean loss as a function of the parameters."""
    return Objective(self.run.example_losses, self.examples, self.batch_size)

  def piece(self, compute: Callable[[], Any], **key: Any) -> Any:
    """A result under a key, with a line in the log.

    Args:
      compute: Returns it, as JSON can hold it.
      **key: What it depends on beside the run and its examples.
    """
    name = ", ".join(f"{k} {v}" for k, v in key.items())
    key |= {
      "checkpoint": self.run.step,
      "weights": _checksum(self.run.variables),
      "examples": _checksum(self.examples),
      "num_examples": len(self.examples["label"]),
    }
    if self.pieces.find(key) is not None:
      logger.info("%s: %s: saved before", self.label, name)
    start = time.monotonic()
    result = self.pieces.get(key, compute)
    if (seconds := time.monotonic() - start) > 1:
      logger.info("%s: %s: %.1f s", self.label, name, seconds)
    return result


def measure_sharpness(
  subject: Subject, rhos: Sequence[float], ms: Sequence[int]
) -> dict[str, list[float]]:
  """Sharpness of all examples together, and m-sharpness.

  Args:
    subject: What to look at.
    rhos: Radii.
    ms: Group sizes of the m-sharpness; a group lies on one device.

  Returns:
    "all" or "m = 8" -> sharpness for each rho.

  Raises:
    ValueError: There are fewer examples than m.
  """
  objective, params = subject.objective(), subject.params
  measures = {
    "all": lambda rho: sharpness(objective.value_and_grad, params, rho)
  }
  for m in ms:
    measure = m_sharpness_fn(subject.run.example_losses, subject.examples, m)
    measures[f"m = {m}"] = lambda rho, measure=measure: measure(params, rho)
  return {
    name: [
      subject.piece(
        lambda rho=rho, measure=measure: measure(rho).sharpness,
        sharpness=name,
        rho=rho,
      )
      for rho in rhos
    ]
    for name, measure in measures.items()
  }


def measure_spectrum(
  subject: Subject, num_probes: int, steps: int, seed: int
) -> list[hessian.Probe]:
  """Probes of the Hessian.

  Args:
    subject: What to look at.
    num_probes: Lanczos runs.
    steps: Hessian products of each.
    seed: Of the vectors that they start from.
  """
  objective = subject.objective()

  def run_probe(number):
    found = hessian.probe_hessian(
      objective,
      subject.params,
      steps,
      [seed, number],
      _progress(f"{subject.label}: probe {number + 1} of {num_probes}", steps),
    )
    return {
      name: value.tolist() if isinstance(value, np.ndarray) else value
      for name, value in found._asdict().items()
    }

  saved = [
    subject.piece(
      lambda number=number: run_probe(number),
      probe=number,
      steps=steps,
      seed=seed,
    )
    for number in range(num_probes)
  ]
  return [
    hessian.Probe(
      *(np.array(probe[name]) for name in hessian.Probe._fields[:3]),
      probe["seconds"],
      probe["host_bytes"],
    )
    for probe in saved
  ]


def losses_on_line(
  subject: Subject, kind: str, distances: Sequence[float], seed: int
) -> np.ndarray:
  """Losses along a direction.

  Args:
    subject: What to look at.
    kind: "random", filter-normalised, or "sam", the direction of its eps.
    distances: In filter norms, or in units of rho.
    seed: Of a random direction.

  Returns:
    float64 [distances]; nan where a loss is not finite.
  """
  objective = subject.objective()

  def losses():
    if kind == "random":
      direction = landscape.random_direction(subject.params, [seed, 0])
    else:
      direction = landscape.sam_direction(objective, subject.params)
    return landscape.losses_along(
      objective, subject.params, direction, distances
    ).tolist()

  key = {"seed": seed} if kind == "random" else {}
  saved = subject.piece(losses, line=kind, distances=list(distances), **key)
  return np.array(saved, np.float64)


def losses_on_plane(
  subject: Subject, distances: Sequence[float], seed: int
) -> np.ndarray:
  """Losses on the plane of two random, filter-normalised directions.

  Args:
    subject: What to look at.
    distances: Along both, in filter norms.
    seed: Of the directions.

  Returns:
    float64 [distances, distances], a row for each step along the second one;
    nan where a loss is not finite.
  """
  objective, params = subject.objective(), subject.params
  right, up = (
    objective.put(landscape.random_direction(params, [seed, number]))
    for number in (0, 1)
  )

  def row(y):
    start = landscape.move(objective.put(params), up, y)
    return landscape.losses_along(objective, start, right, distances).tolist()

  rows = [
    subject.piece(lambda y=y: row(y), row=y, x=list(distances), seed=seed)
    for y in distances
  ]
  return np.array(rows, np.float64)


def losses_between(
  start: Subject, end: Subject, distances: Sequence[float]
) -> np.ndarray:
  """Losses of the first run's examples on the way to another run's weights.

  Batch statistics are interpolated like parameters.

  Args:
    start: Where distance is 0.
    end: Where it is 1.
    distances: In [0, 1]: beyond, variances may be negative.

  Returns:
    float64 [distances]; nan where a loss is not finite.

  Raises:
    ValueError: The networks differ.
  """
  direction = landscape.direction_between(
    start.run.variables, end.run.variables
  )

  def losses():
    objective = Objective(
      start.run.variable_losses, start.examples, start.batch_size
    )
    return landscape.losses_along(
      objective, start.run.variables, direction, distances
    ).tolist()

  saved = start.piece(
    losses, to=_checksum(end.run.variables), distances=list(distances)
  )
  return np.array(saved, np.float64)


def _progress(what: str, total: int) -> Callable[[int], None]:
  """Logs how far something is, every ten seconds."""
  start = last = time.monotonic()

  def on_step(done):
    nonlocal last
    now = time.monotonic()
    if now - last > 10:
      last, left = now, (now - start) / done * (total - done)
      logger.info("%s: step %d of %d, %.0f s left", what, done, total, left)

  return on_step


def _checksum(tree: Any) -> str:
  crc = 0
  for leaf in jax.tree.leaves(tree):
    crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
  return f"{crc:08x}"
