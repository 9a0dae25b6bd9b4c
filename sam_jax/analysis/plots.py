"""Pictures of sharpness, spectra and loss surfaces of several runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import cm, colors, ticker

from sam_jax.analysis import hessian
from sam_jax.reports.plot_style import STYLES, finish, plt, save

Series = Sequence[float] | np.ndarray

# Bottom of the axis, relative to the peak of a single eigenvalue. Below it are
# the tails of Gaussians, but hardly an eigenvalue, even if the random vectors
# of the probes are almost orthogonal to it.
_FLOOR = 0.01


def plot_sharpness(
  runs: Mapping[str, Mapping[str, Series]],
  rhos: Sequence[float],
  note: str,
  path: epath.Path,
) -> None:
  """Draw sharpness against rho: a panel for each run, a line for each m.

  Args:
    runs: Label of a run -> label of a line -> sharpness for each rho.
    rhos: Radii.
    note: Title of the legend, about all panels.
    path: PNG file to write.
  """
  figure, axes = _panels(len(runs))
  has_rise = any(
    np.any(np.greater(v, 0)) for r in runs.values() for v in r.values()
  )
  scale = "log" if has_rise else "linear"
  for axis, (label, lines) in zip(axes, runs.items(), strict=True):
    for i, (name, values) in enumerate(lines.items()):
      style = STYLES[i % len(STYLES)]
      axis.plot(rhos, values, label=name, markersize=4, **style)
    axis.set(xscale="log", yscale=scale, title=label)
    # Label every radius, or fewer where the numbers would overlap.
    every = -(-len(rhos) // 6)
    axis.set_xticks(rhos[::every], [f"{rho:g}" for rho in rhos[::every]])
    axis.minorticks_off()
    axis.set_xlabel("rho, radius of the neighborhood")
  axes[0].set_ylabel("Sharpness: increase of loss (nats)")
  finish(figure, axes[0], f"{note}; m of them share a perturbation", path)


def plot_spectra(
  runs: Mapping[str, Sequence[hessian.Probe]], note: str, path: epath.Path
) -> None:
  """Draw the density of the eigenvalues of Hessians: a panel for each run.

  Args:
    runs: Label of a run -> its probes.
    note: Title of the legend, about all panels.
    path: PNG file to write.
  """
  # The same smoothing for all: otherwise densities could not be compared.
  width = max(map(hessian.default_width, runs.values()))
  floor = min(density_floor(probes, width) for probes in runs.values())
  figure, axes = _panels(len(runs))
  for axis, (label, probes) in zip(axes, runs.items(), strict=True):
    grid, density = hessian.spectral_density(probes, width)
    axis.fill_between(grid, density, color=STYLES[0]["color"], alpha=0.25)
    axis.plot(grid, density, color=STYLES[0]["color"], label="density")
    values = [top.value for top in hessian.top_eigenvalues(probes, 5)]
    axis.plot(
      values,
      np.full(len(values), floor * 2),
      label="five largest eigenvalues",
      **STYLES[1] | {"linestyle": "", "marker": "|", "markersize": 12},
    )
    title = f"{label}\nlargest eigenvalue {values[0]:.3g}"
    if len(values) == 5:
      title += f", {values[0] / values[4]:.2g} times the fifth"
    axis.set_title(title, fontsize="medium")
    axis.set(yscale="log", xlabel="Eigenvalue of the Hessian (nats)")
    axis.set_ylim(bottom=floor)
  axes[0].set_ylabel("Density of eigenvalues (1 / nats)")
  probes = next(iter(runs.values()))
  steps = len(probes[0].weights)
  plural = "s" if len(probes) > 1 else ""
  note += f"; {len(probes)} probe{plural} of {steps} Lanczos steps"
  finish(figure, axes[0], note, path)


def density_floor(probes: Sequence[hessian.Probe], width: float) -> float:
  """Return the bottom of the axis: less than the density of one eigenvalue."""
  return _FLOOR / (probes[0].size * width * np.sqrt(2 * np.pi))


def plot_lines(
  runs: Mapping[str, Series],
  distances: Sequence[float],
  xlabel: str,
  note: str,
  path: epath.Path,
) -> None:
  """Draw losses along one direction, a line for each run.

  Args:
    runs: Label of a run -> loss at each distance; nan leaves a gap. A single
      line gets no label.
    distances: Distances from the run.
    xlabel: Name of the distance.
    note: Title of the legend, about all lines.
    path: PNG file to write.
  """
  figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
  for i, (label, losses) in enumerate(runs.items()):
    style = STYLES[i % len(STYLES)]
    every = max(len(distances) // 10, 1)
    axis.plot(
      distances,
      losses,
      label=label if len(runs) > 1 else None,
      markersize=4,
      markevery=every,
      **style,
    )
  axis.set(xlabel=xlabel, ylabel="Loss (nats)")
  finish(figure, axis, note, path)


def plot_planes(
  runs: Mapping[str, np.ndarray],
  distances: Sequence[float],
  note: str,
  path: epath.Path,
) -> None:
  """Draw losses on planes: surfaces, and their contours below them.

  Args:
    runs: Label of a run -> losses [y, x]; nan leaves a hole.
    distances: Distances along both axes.
    note: Title of the picture.
    path: PNG file to write.

  Raises:
    ValueError: No loss is finite.
  """
  finite = np.concatenate([losses.ravel() for losses in runs.values()])
  finite = finite[np.isfinite(finite)]
  if not finite.size:
    raise ValueError("No loss on the plane is finite: try a smaller --reach.")
  low = max(finite.min(), 1e-4)
  high = max(finite.max(), 1.01 * low)
  norm = colors.LogNorm(low, high)
  lines = _round_levels(low, high)
  size = (1.4 + 3.8 * len(runs), 7.2)
  figure = plt.figure(figsize=size)
  figure.subplots_adjust(hspace=0.1)
  grid = figure.add_gridspec(
    2, len(runs) + 1, width_ratios=[*[1] * len(runs), 0.05]
  )
  for i, (label, losses) in enumerate(runs.items()):
    clipped = np.clip(losses, low, high)
    top = figure.add_subplot(grid[0, i], projection="3d")
    _draw_surface(top, distances, clipped, norm, lines)
    top.set_title(label)
    axis = figure.add_subplot(grid[1, i], aspect="equal")
    axis.contourf(
      distances,
      distances,
      clipped,
      np.geomspace(low, high, 40),
      cmap="cividis",
      norm=norm,
    )
    drawn = axis.contour(
      distances,
      distances,
      clipped,
      lines,
      colors=["white" if norm(line) < 0.5 else "black" for line in lines],
      linewidths=0.8,
    )
    # The labels of a narrow valley would overlap: every third of the lowest.
    labeled = sorted({*lines[-7:], *lines[::-3]})
    axis.clabel(drawn, labeled, fmt="%g", fontsize="small")
    axis.set_xlabel("along direction 1 (filter norms)")
    if i == 0:
      axis.set_ylabel("along direction 2 (filter norms)")
  bar = figure.colorbar(
    cm.ScalarMappable(norm, "cividis"),
    cax=figure.add_subplot(grid[1, -1]),
    label="Loss (nats, logarithmic scale)",
    ticks=lines,
    format="%g",
  )
  bar.ax.minorticks_off()
  figure.suptitle(note, fontsize="small", y=0.95)
  # Constrained layout does not know how wide surfaces with labels are.
  save(figure, path, bbox_inches="tight")


def _draw_surface(
  axis: Any,
  distances: Sequence[float],
  losses: np.ndarray,
  norm: Any,
  levels: Sequence[float],
) -> None:
  """Draw a surface whose height has the logarithmic scale of its colors.

  On a linear scale, a run with small losses would be a flat sheet next to one
  with large losses.
  """
  low, high = np.log10([norm.vmin, norm.vmax])
  axis.plot_surface(
    *np.meshgrid(distances, distances),
    np.log10(losses),
    cmap="cividis",
    norm=colors.Normalize(low, high),
    linewidth=0.2,
    edgecolor="black",
    antialiased=True,
    rcount=len(distances),
    ccount=len(distances),
  )
  axis.set(zlim=(low, high), xlabel="direction 1", ylabel="direction 2")
  axis.locator_params(nbins=5)
  # There is room for six numbers.
  ticks = levels[:: -(-len(levels) // 6)]
  axis.set_zticks(np.log10(ticks), [f"{tick:g}" for tick in ticks])
  axis.set_zlabel("Loss (nats, log scale)")
  axis.tick_params(labelsize="small", pad=-1)


def _round_levels(low: float, high: float) -> list[float]:
  """Return 1, 2 and 5 times powers of ten, or other numbers if these are few.

  Returns:
    Numbers between `low` and `high`, ascending; at least one.
  """
  powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
  levels = [float(f"{d}e{int(p)}") for p in powers for d in (1, 2, 5)]
  levels = [level for level in levels if low < level < high]
  if len(levels) < 3:
    ticks = ticker.MaxNLocator(6).tick_values(low, high)
    levels = [float(tick) for tick in ticks if low < tick < high]
  return levels or [(low + high) / 2]


def _panels(count: int) -> tuple[Any, Any]:
  """Return a figure with a row of panels that share their axes."""
  figure, axes = plt.subplots(
    1,
    count,
    figsize=(1 + 4 * count, 3.8),
    sharex=True,
    sharey=True,
    layout="constrained",
    squeeze=False,
  )
  return figure, axes[0]
