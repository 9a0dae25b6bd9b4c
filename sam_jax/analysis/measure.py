"""Measurements of a trained run, each computed once.

Every function takes results from the cache of the run, and computes and saves
the others. Results are deterministic, except for the seconds of a probe. A
terminal shows a progress bar.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sam_jax import masks
from sam_jax.analysis import hessian, landscape
from sam_jax.analysis.objective import Objective
from sam_jax.analysis.result_cache import ResultCache
from sam_jax.analysis.sharpness import m_sharpness_fn, sharpness_fn
from sam_jax.analysis.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True)
class MeasuredRun:
  """A trained run, the examples to measure it with, and results so far.

  Attributes:
    label: Name of the run in texts and pictures.
    run: The trained run.
    split: Split of the examples, "train" or "test".
    examples: `image` uint8 [N, H, W, C] and `label` int32 [N].
    batch_size: Examples of a pass, over all devices.
    cache: Results so far.
  """

  label: str
  run: TrainedRun
  split: str
  examples: dict[str, np.ndarray]
  batch_size: int
  cache: ResultCache

  @property
  def params(self) -> Any:
    """The parameters of the network."""
    return self.run.params

  @functools.cached_property
  def objective(self) -> Objective:
    """The mean loss as a function of the parameters, compiled only once."""
    return Objective(self.run.example_losses, self.examples, self.batch_size)

  def results(
    self,
    description: str,
    keys: Sequence[dict[str, Any]],
    compute: Callable[[dict[str, Any], Callable[[int], Any]], Any],
    steps: int = 1,
  ) -> list[Any]:
    """Return the results under keys, from the cache or computed.

    Args:
      description: Description of the results for the progress bar.
      keys: Everything that decides each result, except for the run and its
        examples.
      compute: (key, advance) -> a result of JSON values. It may call `advance`
        with a number of steps when they are done.
      steps: Number of steps of each result.
    """
    found = []
    cache_keys = [key | self._identity for key in keys]
    done = sum(cache_key in self.cache for cache_key in cache_keys)
    with tqdm(
      desc=f"{self.label}: {description}",
      total=steps * len(keys),
      initial=steps * done,
      disable=None,  # unless standard error is a terminal
    ) as progress:
      for key, cache_key in zip(keys, cache_keys, strict=True):
        is_new = cache_key not in self.cache
        compute_one = functools.partial(compute, key, progress.update)
        found.append(self.cache.get(cache_key, compute_one))
        if is_new:
          done += 1
          progress.update(steps * done - progress.n)
    return found

  @functools.cached_property
  def _identity(self) -> dict[str, Any]:
    return {
      "checkpoint": self.run.step,
      "weights": checksum(self.run.variables),
      "examples": checksum(self.examples),
      "num_examples": len(self.examples["label"]),
    }


def measure_sharpness(
  run: MeasuredRun,
  rhos: Sequence[float],
  ms: Sequence[int],
  p: float = 2.0,
  adaptive: bool = False,
  ascent_steps: int = 1,
) -> dict[str, np.ndarray]:
  """Measure the m-sharpness, and the sharpness of all examples together.

  Args:
    run: The run to measure.
    rhos: Radii of the neighborhood.
    ms: Group sizes of the m-sharpness; each group is on one device.
    p: Norm of the neighborhood.
    adaptive: True for the neighborhood of ASAM.
    ascent_steps: Steps of the search for the maximum.

  Returns:
    "m = 8" or "all" -> sharpness for each rho, float64 [rhos]; nan where it is
    not finite.

  Raises:
    ValueError: There are fewer examples than m, or an argument is out of range.
  """
  scaled = run.run.config.sam.adaptive_mask if adaptive else ""
  ball: dict[str, Any] = {
    "p": p,
    "adaptive": masks.SCALED_BY_ASAM[scaled] if adaptive else False,
    "ascent_steps": ascent_steps,
  }
  params, found = run.params, {}

  def add(name, measure, num_groups):
    results = run.results(
      name,
      # JSON has no infinity, which p may be.
      [
        {"sharpness": name, "rho": r, **ball}
        | {"adaptive": scaled, "p": f"{p:g}"}
        for r in rhos
      ],
      lambda key, advance: measure(key["rho"], advance).value,
      num_groups,
    )
    found[name] = np.array(results, np.float64)

  for m in ms:
    mean_of_groups = m_sharpness_fn(
      run.run.example_losses, run.examples, m, **ball
    )
    measure = functools.partial(mean_of_groups, params)
    add(f"m = {m}", measure, len(run.examples["label"]) // m)
  of_all = sharpness_fn(run.objective.value_and_grad, **ball)
  add("all", lambda rho, _: of_all(params, rho), 1)
  return found


def measure_spectrum(
  run: MeasuredRun, num_probes: int, steps: int, seed: int
) -> list[hessian.Probe]:
  """Probe the spectrum of the Hessian.

  Args:
    run: The run to measure.
    num_probes: Number of Lanczos runs.
    steps: Hessian products of each.
    seed: Seed of the vectors that they start from.

  Raises:
    ValueError: The Hessian is not finite.
  """

  def run_probe(key, advance):
    found = hessian.probe_hessian(
      run.objective,
      run.params,
      steps,
      [seed, key["probe"]],
      lambda done: advance(1),
    )
    return _json_of_probe(found)

  keys = [
    {"probe": number, "steps": steps, "seed": seed}
    for number in range(num_probes)
  ]
  return [
    _probe_of_json(fields)
    for fields in run.results("Lanczos", keys, run_probe, steps)
  ]


def _json_of_probe(probe: hessian.Probe) -> dict[str, Any]:
  return {
    name: value.tolist() if isinstance(value, np.ndarray) else value
    for name, value in probe._asdict().items()
  }


def _probe_of_json(fields: dict[str, Any]) -> hessian.Probe:
  arrays: dict[str, Any] = {
    name: np.array(value) if isinstance(value, list) else value
    for name, value in fields.items()
  }
  return hessian.Probe(**arrays)


def losses_on_line(
  run: MeasuredRun, kind: str, distances: Sequence[float], seed: int
) -> np.ndarray:
  """Measure losses along a direction.

  Args:
    run: The run to measure.
    kind: "random", filter-normalized, or "sam", the direction of its eps.
    distances: Distances in filter norms, or in units of rho.
    seed: Seed of a random direction.

  Returns:
    float64 [distances]; nan where a loss is not finite.
  """
  objective, params = run.objective, run.params

  @functools.cache
  def direction():  # SAM's takes a gradient: not if all results are cached
    if kind == "random":
      return objective.put(landscape.random_direction(params, [seed, 0]))
    return landscape.sam_direction(objective, params)

  seeds = {"seed": seed} if kind == "random" else {}
  found = run.results(
    f"{kind} line",
    [{"line": kind, "at": at, **seeds} for at in distances],
    lambda key, _: landscape.loss_at(
      objective, params, (direction(), key["at"])
    ),
  )
  return np.array(found, np.float64)


def losses_on_plane(
  run: MeasuredRun, distances: Sequence[float], seed: int
) -> np.ndarray:
  """Measure losses on the plane of two random, filter-normalized directions.

  Args:
    run: The run to measure.
    distances: Distances along both, in filter norms.
    seed: Seed of the directions.

  Returns:
    float64 [distances, distances], a row for each distance along the second
    direction; nan where a loss is not finite.
  """
  objective = run.objective
  params = objective.put(run.params)
  right, up = (
    objective.put(landscape.random_direction(run.params, [seed, number]))
    for number in (0, 1)
  )
  found = run.results(
    "plane",
    [{"x": x, "y": y, "seed": seed} for y in distances for x in distances],
    lambda key, _: landscape.loss_at(
      objective, params, (right, key["x"]), (up, key["y"])
    ),
  )
  return np.array(found, np.float64).reshape(len(distances), -1)


def losses_between(
  start: MeasuredRun, end: MeasuredRun, distances: Sequence[float]
) -> np.ndarray:
  """Measure losses on the line between the weights of two runs.

  The examples are those of the first run. Batch statistics are interpolated
  like parameters.

  Args:
    start: The run at distance 0.
    end: The run at distance 1.
    distances: Distances in [0, 1]: beyond, variances may be negative.

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
  to = checksum(end.run.variables)
  found = start.results(
    f"to {end.label}",
    [{"to": to, "at": at} for at in distances],
    lambda key, _: landscape.loss_at(objective, here, (direction, key["at"])),
  )
  return np.array(found, np.float64)


def checksum(tree: Any) -> str:
  """Return the CRC-32 of all bytes of a tree of arrays, in order."""
  crc = 0
  for leaf in jax.tree.leaves(tree):
    crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
  return f"{crc:08x}"
