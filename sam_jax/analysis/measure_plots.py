"""Pictures of measures of many runs, and of the paths between two."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from sam_jax.reports.plot_style import STYLES, plt, save

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
