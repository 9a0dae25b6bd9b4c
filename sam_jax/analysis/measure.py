"""What there is to know about a trained run, measured piece by piece.

Every function takes saved pieces for what they are, and computes and saves the
others; it is deterministic, but for the seconds of a probe. Progress is shown
on standard error.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from sam_jax.analysis import hessian, landscape
from sam_jax.analysis.objective import Objective
from sam_jax.analysis.progress import Progress
from sam_jax.analysis.result_cache import Pieces
from sam_jax.analysis.sharpness import m_sharpness_fn, sharpness
from sam_jax.analysis.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True)
class Subject:
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

  @functools.cached_property
  def objective(self) -> Objective:
    """Mean loss as a function of the parameters; it compiles only once."""
    return Objective(self.run.example_losses, self.examples, self.batch_size)

  def results(
    self,
    what: str,
    keys: Sequence[dict[str, Any]],
    compute: Callable[[dict[str, Any], Callable[..., None]], Any],
    steps: int = 1,
  ) -> list[Any]:
    """Results under keys, saved or computed, behind one progress bar.

    Args:
      what: They are, in words.
      keys: What each depends on beside the run and its examples.
      compute: (key, advance) -> a result as JSON can hold it. It may call
        `advance` with a number of steps whenever they are done.
      steps: Of each result.
    """
    found = []
    with Progress(f"{self.label}: {what}", steps * len(keys)) as progress:
      for key in keys:
        whole = key | self._identity
        is_new = whole not in self.pieces
        one = functools.partial(compute, key, progress.advance)
        found.append(self.pieces.get(whole, one))
        rest = steps * len(found) - progress.done
        (progress.advance if is_new else progress.skip)(rest)
    return found

  @functools.cached_property
  def _identity(self) -> dict[str, Any]:
    return {
      "checkpoint": self.run.step,
      "weights": _checksum(self.run.variables),
      "examples": _checksum(self.examples),
      "num_examples": len(self.examples["label"]),
    }


def measure_sharpness(
  subject: Subject,
  rhos: Sequence[float],
  ms: Sequence[int],
  p: float = 2.0,
  adaptive: bool = False,
  ascent_steps: int = 1,
) -> dict[str, np.ndarray]:
  """m-sharpness, and sharpness of all examples together.

  Args:
    subject: What to look at.
    rhos: Radii.
    ms: Group sizes of the m-sharpness; a group lies on one device.
    p: Norm of the neighbourhood.
    adaptive: ASAM's neighbourhood.
    ascent_steps: Of the search for the maximum.

  Returns:
    "m = 8" or "all" -> sharpness for each rho, float64 [rhos]; nan where it is
    not finite.

  Raises:
    ValueError: There are fewer examples than m, or an argument is out of range.
  """
  ball = {"p": p, "adaptive": adaptive, "ascent_steps": ascent_steps}
  params, found = subject.params, {}

  def add(name, measure, num_groups):
    results = subject.results(
      name,
      # JSON has no infinity, which p may be.
      [{"sharpness": name, "rho": r, **ball, "p": f"{p:g}"} for r in rhos],
      lambda key, advance: measure(key["rho"], advance).sharpness,
      num_groups,
    )
    found[name] = np.array(results, np.float64)

  for m in ms:
    of_groups = m_sharpness_fn(
      subject.run.example_losses, subject.examples, m, **ball
    )
    measure = functools.partial(of_groups, params)
    add(f"m = {m}", measure, len(subject.examples["label"]) // m)
  value_and_grad = subject.objective.value_and_grad
  add("all", lambda rho, _: sharpness(value_and_grad, params, rho, **ball), 1)
  return found


def measure_spectrum(
  subject: Subject, num_probes: int, steps: int, seed: int
) -> list[hessian.Probe]:
  """Probes of the Hessian.

  Args:
    subject: What to look at.
    num_probes: Lanczos runs.
    steps: Hessian products of each.
    seed: Of the vectors that they start from.

  Raises:
    ValueError: The Hessian is not finite.
  """

  def run_probe(key, advance):
    found = hessian.probe_hessian(
      subject.objective,
      subject.params,
      steps,
      [seed, key["probe"]],
      lambda done: advance(),
    )
    return {
      name: value.tolist() if isinstance(value, np.ndarray) else value
      for name, value in found._asdict().items()
    }

  keys = [
    {"probe": number, "steps": steps, "seed": seed}
    for number in range(num_probes)
  ]
  return [
    hessian.Probe(
      **{
        name: np.array(value) if isinstance(value, list) else value
        for name, value in probe.items()
      }
    )
    for probe in subject.results("Lanczos", keys, run_probe, steps)
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
  objective, params = subject.objective, subject.params

  @functools.cache
  def direction():  # SAM's takes a gradient: not if all is saved
    if kind == "random":
      return objective.put(landscape.random_direction(params, [seed, 0]))
    return landscape.sam_direction(objective, params)

  seeds = {"seed": seed} if kind == "random" else {}
  found = subject.results(
    f"{kind} line",
    [{"line": kind, "at": at, **seeds} for at in distances],
    lambda key, _: landscape.loss_at(
      objective, params, (direction(), key["at"])
    ),
  )
  return np.array(found, np.float64)


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
  objective = subject.objective
  params = objective.put(subject.params)
  right, up = (
    objective.put(landscape.random_direction(subject.params, [seed, number]))
    for number in (0, 1)
  )
  found = subject.results(
    "plane",
    [{"x": x, "y": y, "seed": seed} for y in distances for x in distances],
    lambda key, _: landscape.loss_at(
      objective, params, (right, key["x"]), (up, key["y"])
    ),
  )
  return np.array(found, np.float64).reshape(len(distances), -1)


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
  here = start.run.variables
  direction = landscape.direction_between(here, end.run.variables)
  objective = Objective(
    start.run.variable_losses, start.examples, start.batch_size
  )
  to = _checksum(end.run.variables)
  found = start.results(
    f"to {end.label}",
    [{"to": to, "at": at} for at in distances],
    lambda key, _: landscape.loss_at(objective, here, (direction, key["at"])),
  )
  return np.array(found, np.float64)


def _checksum(tree: Any) -> str:
  crc = 0
  for leaf in jax.tree.leaves(tree):
    crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
  return f"{crc:08x}"
