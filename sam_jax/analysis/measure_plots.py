"""Pictures of measures of many runs, and of the paths between two."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from sam_jax.reports.plot_style import STYLES, finish, plt, save

# With more runs than this, their names would overlap.
_MAX_LABELS = 8
_COLUMNS = 3


def plot_measures(
  test_errors: Mapping[str, float],
  measures: Mapping[str, np.ndarray],
  taus: Mapping[str, float],
  note: str,
  path: epath.Path,
) -> None:
  """Draw the test errors against each measure: a panel for each.

  Args:
    test_errors: Test error of each run by its label, in [0, 1].
    measures: Values [runs] of each measure; those not finite are left out.
    taus: Kendall's tau of each measure.
    note: Text below the panels.
    path: PNG file to write.
  """
  columns = min(len(measures), _COLUMNS)
  rows = -(-len(measures) // columns)
  figure, axes = plt.subplots(
    rows,
    columns,
    figsize=(0.8 + 3.4 * columns, 0.5 + 2.7 * rows),
    sharey=True,
    layout="constrained",
    squeeze=False,
  )
  percent = 100 * np.array(list(test_errors.values()))
  for axis, (name, values) in zip(axes.flat, measures.items(), strict=False):
    is_finite = np.isfinite(values)
    axis.plot(values[is_finite], percent[is_finite], **_points())
    if np.all(values[is_finite] > 0):
      axis.set_xscale("log")
    tau = taus[name]
    suffix = "" if math.isnan(tau) else f"\ntau {tau:.2f}"
    axis.set_title(_wrapped(name) + suffix, fontsize="small")
    if len(test_errors) <= _MAX_LABELS:
      _label_points(axis, list(test_errors), values, percent)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
  for axis in axes.flat[len(measures) :]:
    axis.set_visible(False)
  for axis in axes[:, 0]:
    axis.set_ylabel("Test error (%)")
  figure.supxlabel(note, fontsize="small")
  save(figure, path)


def plot_paths(
  losses: Mapping[str, np.ndarray],
  errors: Mapping[str, np.ndarray],
  positions: Sequence[float],
  xlabel: str,
  note: str,
  path: epath.Path,
) -> None:
  """Draw losses and errors on paths: a panel for each, a line for each path.

  Args:
    losses: Name of a path -> losses [points]; nan leaves a gap.
    errors: Name of a path -> error rates [points], in [0, 1].
    positions: Positions of the points.
    xlabel: Name of the position.
    note: Title of the legend.
    path: PNG file to write.
  """
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
  for i, name in enumerate(losses):
    style = STYLES[i] | {"markersize": 4}
    axes[0].plot(positions, losses[name], label=name, **style)
    axes[1].plot(positions, 100 * errors[name], label=name, **style)
  axes[0].set(ylabel="Loss (nats)", xlabel=xlabel)
  axes[1].set(ylabel="Error (%)", xlabel=xlabel)
  finish(figure, axes[0], note, path)


def _points() -> dict[str, str | float]:
  return {"linestyle": "", "marker": "o", "color": STYLES[0]["color"]}


def _label_points(
  axis: plt.Axes,
  labels: Sequence[str],
  x: np.ndarray,
  y: np.ndarray,
) -> None:
  """Write the names of runs next to their points, inside the panel."""
  middle = np.nanmedian(x)
  for label, at, height in zip(labels, x, y, strict=True):
    if np.isfinite(at):
      is_left = at <= middle
      axis.annotate(
        label,
        (at, height),
        xytext=(5 if is_left else -5, 3),
        textcoords="offset points",
        ha="left" if is_left else "right",
        fontsize="x-small",
      )


def _wrapped(name: str) -> str:
  """Break the name of a measure after its colon if it is long."""
  return name.replace(":", ":\n") if len(name) > 30 else name
