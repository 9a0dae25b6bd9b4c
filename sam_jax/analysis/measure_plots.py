"""Pictures of measures of many runs, and of the paths between two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import ticker
from matplotlib.axes import Axes

from sam_jax.reports.plot_style import STYLES, finish, legend_height, plt

# With more runs than this, all have one style, and no names.
_MAX_NAMES = 16
_COLUMNS = 3
# Above this ratio of values, only powers of ten are ticks.
_WIDE = 100


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
    note: Title of the legend.
    path: PNG file to write.
  """
  columns = min(len(measures), _COLUMNS)
  rows = -(-len(measures) // columns)
  has_names = len(test_errors) <= _MAX_NAMES
  legend = legend_height(list(test_errors)) if has_names else 0.0
  figure, axes = plt.subplots(
    rows,
    columns,
    figsize=(0.8 + 3.4 * columns, 0.5 + 2.7 * rows + legend),
    sharey=True,
    layout="constrained",
    squeeze=False,
  )
  for axis, (name, values) in zip(axes.flat, measures.items(), strict=False):
    for i, (label, error) in enumerate(test_errors.items()):
      style = _point(i) | {"label": label} if has_names else _point(0)
      axis.plot(values[i], 100 * error, **style)
    _scale(axis, values[np.isfinite(values)])
    tau = taus[name]
    suffix = "" if math.isnan(tau) else f"\ntau {tau:.2f}"
    axis.set_title(_wrapped(name) + suffix, fontsize="small")
  for axis in axes.flat[len(measures) :]:
    axis.set_visible(False)
  for axis in axes[:, 0]:
    axis.set_ylabel("Test error (%)")
  finish(figure, axes[0, 0], note, path)


def plot_paths(
  losses: Mapping[str, np.ndarray],
  errors: Mapping[str, np.ndarray],
  positions: Sequence[float],
  note: str,
  path: epath.Path,
) -> None:
  """Draw losses and errors on paths: a panel for each, a line for each path.

  Args:
    losses: Name of a path -> losses [points]; nan leaves a gap.
    errors: Name of a path -> error rates [points], in [0, 1].
    positions: Positions of the points, from 0 to 1.
    note: Title of the legend.
    path: PNG file to write.
  """
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
  for i, name in enumerate(losses):
    style = STYLES[i] | {"markersize": 4}
    axes[0].plot(positions, losses[name], label=name, **style)
    axes[1].plot(positions, 100 * errors[name], label=name, **style)
  axes[0].set(ylabel="Loss (nats)", xlabel="Part of the way")
  axes[1].set(ylabel="Error (%)", xlabel="Part of the way")
  finish(figure, axes[0], note, path)


def _point(number: int) -> dict[str, Any]:
  """Return the style of a run: each has its own color and marker."""
  turn, i = divmod(number, len(STYLES))
  marker = STYLES[(i + turn) % len(STYLES)]["marker"]
  return {"linestyle": "", "marker": marker, "color": STYLES[i]["color"]}


def _scale(axis: Axes, values: np.ndarray) -> None:
  """Make an axis of positive values logarithmic, with ticks as plain numbers.

  Args:
    axis: The axis.
    values: Its finite values [runs].
  """
  if not values.size or values.min() <= 0:
    return
  axis.set_xscale("log")
  is_wide = values.max() / values.min() > _WIDE
  subs = (1.0,) if is_wide else (1.0, 2.0, 5.0)
  axis.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
  axis.xaxis.set_major_formatter("{x:g}")
  axis.xaxis.set_minor_formatter(ticker.NullFormatter())


def _wrapped(name: str) -> str:
  """Break the name of a measure after its colon if it is long."""
  return name.replace(":", ":\n") if len(name) > 30 else name
