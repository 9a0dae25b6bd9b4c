"""The pictures of the miniature reproduction."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from sam_jax.analysis.plot_style import STYLES, finish, plt
from sam_jax.analysis.results import confidence_half_width

_SIZE = (6.4, 4.4)


def draw_lines(
  lines: Mapping[str, Sequence[Sequence[float]]],
  positions: Sequence[float],
  axis_label: str,
  path: pathlib.Path,
  log: bool = False,
) -> None:
  """Draws test errors [positions, S] of several methods.

  Args:
    lines: Errors in percent, by label.
    positions: On the horizontal axis.
    axis_label: Its label.
    path: File to write.
    log: Whether that axis is logarithmic.
  """
  figure, axis = plt.subplots(figsize=_SIZE, layout="constrained")
  for style, (label, rows) in zip(STYLES, lines.items(), strict=False):
    _draw_with_intervals(axis, positions, rows, label, style)
  if log:
    _log_axis(axis, positions)
  axis.set(xlabel=axis_label, ylabel="Test error (%)")
  finish(figure, axis, "Mean over seeds, 95% interval", path)


def draw_lines_of_grids(
  lines: Mapping[str, Mapping[float, Sequence[float]]],
  reference: tuple[str, Sequence[float]],
  path: pathlib.Path,
) -> None:
  """Draws test errors against rho beside a method without one.

  Args:
    lines: Errors [S] in percent, by label and rho.
    reference: Label and errors [S] of the method without rho.
    path: File to write.
  """
  figure, axis = plt.subplots(figsize=_SIZE, layout="constrained")
  for style, (label, points) in zip(STYLES, lines.items(), strict=False):
    _draw_with_intervals(axis, list(points), points.values(), label, style)
  label, values = reference
  mean, half = np.mean(values), confidence_half_width(list(values))
  axis.axhline(mean, color="0.4", linestyle=":", label=label)
  axis.axhspan(mean - half, mean + half, color="0.85", zorder=0)
  _log_axis(axis, sorted({rho for points in lines.values() for rho in points}))
  axis.set(xlabel="Radius rho", ylabel="Test error (%)")
  finish(figure, axis, "Mean over seeds, 95% interval", path)


def draw_points(
  panels: Mapping[str, Mapping[str, Sequence[float]]], path: pathlib.Path
) -> None:
  """Draws a point for every seed, quantities side by side.

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
    axis.set(ylabel=quantity, yscale="log", xlim=(-0.5, len(methods) - 0.5))
    axis.set_xticks(range(len(methods)), list(methods))
  finish(figure, axes[0][0], "Each point is a seed", path)


def draw_scores(
  scores: Mapping[int, Sequence[float]],
  random: Sequence[float],
  path: pathlib.Path,
) -> None:
  """Draws the score of m-sharpness against m.

  Args:
    scores: Values [S] whose mean is the score, by m.
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


def _draw_with_intervals(axis, positions, rows, label, style) -> None:
  means = [np.mean(row) for row in rows]
  halves = [confidence_half_width(list(row)) for row in rows]
  axis.errorbar(
    positions, means, halves, label=label, capsize=3, markersize=5, **style
  )


def _log_axis(axis, positions) -> None:
  """A logarithmic axis, with ticks at the values themselves."""
  axis.set_xscale("log")
  axis.set_xticks(positions, [f"{x:g}" for x in positions])
  axis.minorticks_off()
