"""Pictures of sharpness, spectra and surfaces, the runs side by side."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import cm, colors

from sam_jax.analysis import hessian
from sam_jax.analysis.plot_style import STYLES, finish, plt

# Densities below are those of Gaussian tails, not of eigenvalues.
_FLOOR = 1e-6


def plot_sharpness(
  runs: Mapping[str, Mapping[str, Sequence[float]]],
  rhos: Sequence[float],
  note: str,
  path: pathlib.Path,
) -> None:
  """Draws sharpness against rho: a panel for each run, a line for each m.

  Args:
    runs: Label of a run -> label of a line -> sharpness for each rho.
    rhos: Radii.
    note: Says what all have in common.
    path: File to write.
  """
  figure, axes = _panels(len(runs))
  for axis, (label, lines) in zip(axes, runs.items(), strict=True):
    for i, (name, values) in enumerate(lines.items()):
      style = STYLES[i % len(STYLES)]
      axis.plot(rhos, values, label=name, markersize=4, **style)
    axis.set(xscale="log", yscale="log", title=label)
    axis.set_xlabel("rho, radius of the neighbourhood")
  axes[0].set_ylabel("Sharpness (nats)")
  finish(figure, axes[0], f"{note}; m of them share a perturbation", path)


def plot_spectra(
  runs: Mapping[str, Sequence[hessian.Probe]], note: str, path: pathlib.Path
) -> None:
  """Draws the density of the Hessian's eigenvalues: a panel for each run.

  Args:
    runs: Label of a run -> its probes.
    note: Says what all have in common.
    path: File to write.
  """
  # The same smoothing for all, or densities could not be compared.
  width = max(map(hessian.default_width, runs.values()))
  figure, axes = _panels(len(runs))
  for axis, (label, probes) in zip(axes, runs.items(), strict=True):
    grid, density = hessian.spectral_density(probes, width)
    axis.fill_between(grid, density, color=STYLES[0]["color"], alpha=0.25)
    axis.plot(grid, density, color=STYLES[0]["color"], label="density")
    values = [top.value for top in hessian.top_eigenvalues(probes, 5)]
    axis.plot(
      values,
      np.full(len(values), _FLOOR * 2),
      label="five largest eigenvalues",
      **STYLES[1] | {"linestyle": "", "marker": "|", "markersize": 12},
    )
    title = f"{label}\nlargest eigenvalue {values[0]:.3g}"
    if len(values) == 5:
      title += f", {values[0] / values[4]:.2g} times the fifth"
    axis.set_title(title, fontsize="medium")
    axis.set(yscale="log", xlabel="Eigenvalue of the Hessian")
    axis.set_ylim(bottom=_FLOOR)
  axes[0].set_ylabel("Density (log scale)")
  probes = next(iter(runs.values()))
  steps = len(probes[0].weights)
  note += f"; {len(probes)} probes of {steps} Lanczos steps"
  finish(figure, axes[0], note, path)


def plot_lines(
  runs: Mapping[str, Sequence[float]],
  distances: Sequence[float],
  xlabel: str,
  note: str,
  path: pathlib.Path,
) -> None:
  """Draws losses along one direction, a line for each run.

  Args:
    runs: Label of a run -> loss at each distance; nan leaves a gap.
    distances: From the run.
    xlabel: What the distance is.
    note: Says what all have in common.
    path: File to write.
  """
  figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
  for i, (label, losses) in enumerate(runs.items()):
    style = STYLES[i % len(STYLES)]
    every = max(len(distances) // 10, 1)
    axis.plot(
      distances, losses, label=label, markersize=4, markevery=every, **style
    )
  axis.set(xlabel=xlabel, ylabel="Loss (nats)")
  finish(figure, axis, note, path)


def plot_planes(
  runs: Mapping[str, np.ndarray],
  distances: Sequence[float],
  note: str,
  path: pathlib.Path,
) -> None:
  """Draws losses on a plane, as surfaces and their contours below them.

  Args:
    runs: Label of a run -> losses [y, x]; nan leaves a hole.
    distances: Of both axes.
    note: Says what all have in common.
    path: File to write.
  """
  finite = np.concatenate([losses.ravel() for losses in runs.values()])
  finite = finite[np.isfinite(finite)]
  levels = np.geomspace(max(finite.min(), 1e-4), finite.max(), 13)
  norm = colors.LogNorm(levels[0], levels[-1])
  size = (1 + 3.6 * len(runs), 6.6)
  figure = plt.figure(figsize=size, layout="constrained")
  for i, (label, losses) in enumerate(runs.items(), start=1):
    clipped = np.clip(losses, levels[0], levels[-1])
    top = figure.add_subplot(2, len(runs), i, projection="3d")
    top.plot_surface(
      *np.meshgrid(distances, distances),
      clipped,
      cmap="cividis",
      norm=norm,
      linewidth=0.2,
      edgecolor="black",
      antialiased=True,
    )
    top.set(zlim=(0, levels[-1]), title=label, zlabel="Loss (nats)")
    top.set(xlabel="direction 1", ylabel="direction 2")
    axis = figure.add_subplot(2, len(runs), len(runs) + i, aspect="equal")
    axis.contourf(
      distances, distances, clipped, levels, cmap="cividis", norm=norm
    )
    lines = axis.contour(
      distances, distances, clipped, levels[::2], colors="black", linewidths=0.6
    )
    axis.clabel(lines, fmt="%.2g", fontsize="x-small")
    axis.set_xlabel("along direction 1 (filter norms)")
    if i == 1:
      axis.set_ylabel("along direction 2 (filter norms)")
  bar = figure.colorbar(
    cm.ScalarMappable(norm, "cividis"),
    ax=figure.axes[1::2],
    label="Loss (nats)",
    format="%.2g",
  )
  bar.ax.minorticks_off()
  figure.suptitle(note, fontsize="small")
  figure.savefig(path, dpi=150)
  plt.close(figure)


def _panels(count: int):
  """A row of panels that share their axes."""
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
