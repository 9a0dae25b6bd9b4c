"""The figures of the miniature reproduction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes

from sam_jax.reports.plot_style import STYLES, finish, plt
from sam_jax.reports.results import confidence_half_width
from scripts.reproduce.claims import Values

_SIZE = (6.4, 4.4)


def draw_against_noise(
  lines: Mapping[str, Sequence[Values]],
  percents: Sequence[float],
  path: epath.Path,
) -> None:
  """Draw test errors against label noise.

  Args:
    lines: Errors in percent [rates, S], by label.
    percents: Rates of the noise [rates].
    path: File to write.
  """
  figure, axis = plt.subplots(figsize=_SIZE, layout="constrained")
  for style, (label, rows) in zip(STYLES, lines.items(), strict=False):
    _draw_with_intervals(axis, percents, rows, label, style)
  axis.set(xlabel="Training labels redrawn (%)", ylabel="Test error (%)")
  finish(figure, axis, "Mean over seeds, 95% interval", path)


def draw_against_rho(
  lines: Mapping[str, Mapping[float, Values]],
  sgd: Values,
  path: epath.Path,
) -> None:
  """Draw test errors against rho, next to the error of SGD.

  Args:
    lines: Errors in percent [S], by label and rho.
    sgd: Errors in percent [S].
    path: File to write.
  """
  figure, axis = plt.subplots(figsize=_SIZE, layout="constrained")
  for i, (label, points) in enumerate(lines.items()):
    # Side by side, so that intervals do not hide each other.
    positions = [rho * 1.015**i for rho in points]
    _draw_with_intervals(axis, positions, points.values(), label, STYLES[i])
  mean, half = float(np.mean(sgd)), confidence_half_width(list(sgd))
  axis.axhline(mean, color="0.4", linestyle=":", label="SGD")
  axis.axhspan(mean - half, mean + half, color="0.85", zorder=0)
  _log_axis(axis, sorted({rho for points in lines.values() for rho in points}))
  axis.set(xlabel="Radius rho", ylabel="Test error (%)")
  finish(figure, axis, "Mean over seeds, 95% interval", path)


def draw_points(
  panels: Mapping[str, Mapping[str, Values]], path: epath.Path
) -> None:
  """Draw a point for every seed, quantities side by side.

  Args:
    panels: Values [S], by quantity and method.
    path: File to write.
  """
  figure, axes = plt.subplots(
    1, len(panels), figsize=(6.4, 3.6), layout="constrained", squeeze=False
  )
  for axis, (quantity, methods) in zip(axes[0], panels.items(), strict=True):
    for i, (name, values) in enumerate(methods.items()):
      style = STYLES[i]
      spread = np.linspace(-0.15, 0.15, len(values))
      axis.plot(
        i + spread,
        values,
        linestyle="",
        marker=style["marker"],
        color=style["color"],
        label=name,
      )
    both = np.concatenate([np.asarray(x) for x in methods.values()])
    scale = "log" if both.max() > 20 * both.min() > 0 else "linear"
    axis.set(ylabel=quantity, yscale=scale, xlim=(-0.5, len(methods) - 0.5))
    axis.set_xticks(range(len(methods)), list(methods))
  finish(figure, axes[0][0], "Each point is a seed", path)


def draw_scores(
  scores: Mapping[int, Values],
  random: Values,
  path: epath.Path,
) -> None:
  """Draw the score of m-sharpness against m.

  Args:
    scores: Values [S] by m; their mean is the score.
    random: Scores of random measures.
    path: File to write.
  """
  figure, axis = plt.subplots(figsize=_SIZE, layout="constrained")
  rows = list(scores.values())
  _draw_with_intervals(axis, list(scores), rows, "m-sharpness", STYLES[0])
  axis.axhspan(
    min(random), max(random), color="0.8", label="random measures, all"
  )
  _log_axis(axis, list(scores))
  axis.set(xlabel="m (examples)", ylabel="Score (fraction of entropy)")
  axis.set_ylim(bottom=0)
  finish(figure, axis, "95% interval by the jackknife", path)


def _draw_with_intervals(
  axis: Axes,
  positions: Iterable[float],
  rows: Iterable[Values],
  label: str,
  style: Mapping[str, Any],
) -> None:
  """Draw means over seeds with their 95% intervals."""
  rows = list(rows)
  means = [np.mean(row) for row in rows]
  halves = [confidence_half_width(list(row)) for row in rows]
  axis.errorbar(
    list(positions),
    means,
    halves,
    label=label,
    capsize=3,
    markersize=5,
    **style,
  )


def _log_axis(axis: Axes, positions: Sequence[float]) -> None:
  """Use a logarithmic axis with ticks at the values themselves.

  A value too close to the last label gets none.
  """
  room = 0.06 * np.log(positions[-1] / positions[0])
  labels, last = [], 0.0
  for x in positions:
    has_room = not last or np.log(x / last) > room
    labels.append(f"{x:g}" if has_room else "")
    last = x if has_room else last
  axis.set_xscale("log")
  axis.set_xticks(positions, labels)
  axis.minorticks_off()
