"""Comparisons of trained runs: measured, described, and drawn side by side.

`load_runs` loads them; `compare_sharpness`, `compare_spectra` and
`compare_landscapes` return texts and write pictures; `log_pictures` shows these
in TensorBoard.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from sam_jax import wording
from sam_jax.analysis import hessian, measure, plots, run_names
from sam_jax.analysis.measure import MeasuredRun
from sam_jax.analysis.result_cache import ResultCache
from sam_jax.analysis.run_names import RunName
from sam_jax.analysis.trained_run import load_run, read_config
from sam_jax.runs.event_file import EventFile
from sam_jax.runs.staged_logs import StagedLogs

logger = logging.getLogger(__name__)

_SPLITS = {"train": "training", "test": "test"}


class Comparison(NamedTuple):
  """The result of a comparison.

  Attributes:
    lines: Lines of text with the numbers.
    pictures: PNG files.
  """

  lines: list[str]
  pictures: list[epath.Path]


def load_runs(
  names: Sequence[RunName],
  study: str,
  split: str,
  num_examples: int,
  batch_size: int | None = None,
) -> list[MeasuredRun]:
  """Load runs of one data set, with the examples to measure them with.

  Args:
    names: Runs or checkpoints.
    study: Name of the measurements: results are in RUN/analysis/STUDY.json.
    split: "train" or "test".
    num_examples: Maximum number of examples, the first of the split.
    batch_size: Examples of a pass; None for that of the training.

  Raises:
    ConfigError: There is no such run or checkpoint.
    ValueError: The batch does not suit the devices, or the data sets differ.
  """
  labels = run_names.labels(names)
  check_data_sets([read_config(*name) for name in names], labels)
  runs = []
  for name, label in zip(names, labels, strict=True):
    # Messages about the data set, which do not name the run, come next.
    logger.info("%s: loading a checkpoint and the data set.", label)
    run = load_run(*name)
    examples = run.examples(split, num_examples)
    count = len(examples["label"])
    cache = ResultCache(run.workdir / "analysis" / f"{study}.json")
    size = _whole_batch_size(batch_size, run.config.batch_size, count)
    runs.append(MeasuredRun(label, run, split, examples, size, cache))
  warn_of_other_examples(runs)
  return runs


def _whole_batch_size(
  wanted: int | None, of_training: int, num_examples: int
) -> int:
  """Return a batch size that the devices divide, within the examples."""
  devices = jax.local_device_count()
  if wanted and wanted % devices:
    raise ValueError(
      f"--batch_size={wanted} must be a multiple of the {devices} devices, as"
      f" is {-(-wanted // devices) * devices}."
    )
  size = min(wanted or of_training, num_examples)
  return -(-size // devices) * devices


def check_data_sets(
  configs: Sequence[ConfigDict], labels: Sequence[str]
) -> None:
  """Check that one picture can compare runs.

  Args:
    configs: Their configs.
    labels: Their names.

  Raises:
    ValueError: Their data sets differ.
  """
  first = configs[0].dataset.name
  for config, label in zip(configs, labels, strict=True):
    if config.dataset.name != first:
      raise ValueError(
        f"--workdir: {labels[0]} was trained on {first} and {label} on"
        f" {config.dataset.name}; analyze runs of one data set together."
      )


def warn_of_other_examples(runs: Sequence[MeasuredRun]) -> None:
  """Log a warning for each run whose examples are not those of the first."""
  first = runs[0]
  for other in runs[1:]:
    if not all(
      np.array_equal(first.examples[key], other.examples[key])
      for key in first.examples
    ):
      logger.warning(
        "%s: not the same examples and labels as %s", other.label, first.label
      )


def compare_sharpness(
  runs: Sequence[MeasuredRun],
  output: epath.Path,
  rhos: Sequence[float],
  ms: Sequence[int],
  p: float = 2.0,
  adaptive: bool = False,
  ascent_steps: int = 1,
) -> Comparison:
  """Compare the sharpness of all examples and of groups of m, for every rho.

  Args:
    runs: Runs to compare.
    output: Directory of the picture.
    rhos: Radii of the neighborhood, ascending.
    ms: Group sizes of the m-sharpness.
    p: Norm of the neighborhood.
    adaptive: True for the neighborhood of ASAM.
    ascent_steps: Steps of the search for the maximum.

  Raises:
    ValueError: There are fewer examples than m, or an argument is out of range.
  """
  found = {
    run.label: measure.measure_sharpness(
      run, rhos, ms, p, adaptive, ascent_steps
    )
    for run in runs
  }
  lines = []
  for label, series in found.items():
    for name, values in series.items():
      texts = [
        f"{_format(value)} (rho {rho:g})"
        for rho, value in zip(rhos, values, strict=True)
      ]
      lines.append(f"{label}: sharpness, {name}: {'  '.join(texts)}")
  note = describe_examples(runs)
  # Differences from SAM's own neighborhood and ascent.
  if p != 2:
    note += f", p = {p:g}"
  if adaptive:
    note += ", adaptive"
  if ascent_steps > 1:
    note += f", {ascent_steps} ascent steps"
  path = output / "sharpness.png"
  plots.plot_sharpness(found, rhos, note, path)
  return Comparison(lines, [path])


def compare_spectra(
  runs: Sequence[MeasuredRun],
  output: epath.Path,
  num_probes: int,
  steps: int,
  seed: int = 0,
) -> Comparison:
  """Compare the largest eigenvalues of Hessians, and the density of all.

  Args:
    runs: Runs to compare.
    output: Directory of the picture.
    num_probes: Number of Lanczos runs.
    steps: Hessian products of each.
    seed: Seed of the vectors that they start from.

  Raises:
    ValueError: A Hessian is not finite.
  """
  found = {
    run.label: measure.measure_spectrum(run, num_probes, steps, seed)
    for run in runs
  }
  lines = []
  for label, probes in found.items():
    lines += [
      f"{label}: probe {i}: {_describe_cost(probe)}"
      for i, probe in enumerate(probes)
    ]
    top = hessian.top_eigenvalues(probes, 5)
    text = ", ".join(f"{t.value:.4g} (+-{t.residual:.1g})" for t in top)
    lines.append(f"{label}: largest eigenvalues {text}")
    if len(top) == 5:
      ratio = top[0].value / top[4].value
      lines.append(f"{label}: first / fifth {ratio:.3g}")
  path = output / "hessian.png"
  plots.plot_spectra(found, describe_examples(runs), path)
  return Comparison(lines, [path])


def compare_landscapes(
  runs: Sequence[MeasuredRun],
  output: epath.Path,
  directions: Sequence[str],
  points: int,
  reach: float,
  rho: float,
  seed: int = 0,
) -> Comparison:
  """Compare the loss along lines and on planes through the parameters.

  Args:
    runs: Runs to compare.
    output: Directory of the pictures, one for each direction.
    directions: Some of "random", "sam", "plane", and "between", from the first
      run to the second.
    points: Points of a line, or of each side of a plane.
    reach: Largest distance along random directions, in filter norms.
    rho: Largest distance along SAM's direction.
    seed: Seed of random directions.

  Raises:
    ValueError: No loss on a plane is finite, or the networks differ.
  """
  paths = []
  for direction in dict.fromkeys(directions):
    path = output / f"landscape_{direction}.png"
    if direction == "plane":
      _compare_planes(runs, path, points, reach, seed)
    elif direction == "between":
      _draw_line_between(runs, path, points)
    else:
      limit = rho if direction == "sam" else reach
      _compare_lines(runs, path, direction, points, limit, seed)
    paths.append(path)
  return Comparison([], paths)


def _compare_planes(
  runs: Sequence[MeasuredRun],
  path: epath.Path,
  points: int,
  reach: float,
  seed: int,
) -> None:
  distances = np.linspace(-reach, reach, points).tolist()
  found = {
    run.label: measure.losses_on_plane(run, distances, seed) for run in runs
  }
  plots.plot_planes(found, distances, describe_examples(runs), path)


def _compare_lines(
  runs: Sequence[MeasuredRun],
  path: epath.Path,
  direction: str,
  points: int,
  limit: float,
  seed: int,
) -> None:
  distances = np.linspace(-limit, limit, points).tolist()
  found = {
    run.label: measure.losses_on_line(run, direction, distances, seed)
    for run in runs
  }
  xlabel = {
    "random": "Distance along a random direction (filter norms)",
    "sam": "Distance along SAM's perturbation (rho)",
  }[direction]
  plots.plot_lines(found, distances, xlabel, describe_examples(runs), path)


def _draw_line_between(
  runs: Sequence[MeasuredRun], path: epath.Path, points: int
) -> None:
  start, end = runs
  distances = np.linspace(0, 1, points).tolist()
  losses = measure.losses_between(start, end, distances)
  plots.plot_lines(
    {f"{start.label} to {end.label}": losses},
    distances,
    f"Part of the way from {start.label} (0) to {end.label} (1)",
    f"{describe_examples(runs)}; batch statistics interpolated",
    path,
  )


def log_pictures(
  runs: Sequence[MeasuredRun], pictures: Sequence[epath.Path]
) -> None:
  """Show pictures in TensorBoard once, next to the logs of the first run."""
  first = runs[0]
  logs = StagedLogs(first.cache.path.parent)
  events = EventFile(logs.path, logs.names())
  for path in pictures:
    with path.open("rb") as file:
      pixels = np.asarray(Image.open(file).convert("RGB"))
    events.image(first.run.step, path.stem, pixels)
  events.close()
  logs.close()


def describe_run(run: MeasuredRun) -> str:
  """Return the checkpoint and the number of examples of a run, in words."""
  return f"{run.label}: step {run.run.step:,}, {_examples(run)}"


def describe_examples(runs: Sequence[MeasuredRun]) -> str:
  """Return a note for pictures about the losses."""
  return f"Losses of {_examples(runs[0])}, in evaluation mode"


def _examples(run: MeasuredRun) -> str:
  noun = f"{_SPLITS[run.split]} example"
  return wording.count(len(run.examples["label"]), noun)


def _describe_cost(probe: hessian.Probe) -> str:
  """Return the time and the memory that a probe took when it was computed."""
  device = "unknown"
  if probe.device_bytes is not None:
    device = f"{probe.device_bytes / 2**20:.1f} MiB"
  return (
    f"{probe.seconds:.1f} s, memory {device} on each device,"
    f" {probe.host_bytes / 2**20:.1f} MiB on the host"
  )


def _format(value: float) -> str:
  """Return four digits, or words for numbers that are not finite."""
  return f"{value:.4g}" if np.isfinite(value) else "not finite"
