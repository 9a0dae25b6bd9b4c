"""The figures of the reproduction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes

from sam_jax.reports.plot_style import STYLES, finish, plt
from sam_jax.reports.results import confidence_half_width
from scripts.reproduce.claims import WORDS, Values, Verdict

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


def draw_along_training(
  lines: Mapping[str, Sequence[Values]], epochs: Sequence[int], path: epath.Path
) -> None:
  """Draw the largest eigenvalues against the epoch.

  Args:
    lines: Eigenvalues [epochs, S], by method; drawn by their logarithms.
    epochs: Epochs [epochs].
    path: File to write.
  """
  figure, axis = plt.subplots(figsize=_SIZE, layout="constrained")
  for style, (label, rows) in zip(STYLES, lines.items(), strict=False):
    logs = [np.log10(row) for row in rows]
    _draw_with_intervals(axis, epochs, logs, label, style)
  axis.set(xlabel="Epoch", ylabel="log10 of the largest eigenvalue (nats)")
  finish(figure, axis, "Mean over seeds, 95% interval", path)


def draw_verdicts(verdicts: Sequence[Verdict], path: epath.Path) -> None:
  """Draw the difference of every claim in points of test error.

  Args:
    verdicts: Claims about test errors.
    path: File to write.
  """
  height = 1.2 + 0.27 * len(verdicts)
  figure, axis = plt.subplots(figsize=(8.5, height), layout="constrained")
  for word, style in zip(WORDS, STYLES, strict=False):
    rows = [(i, v) for i, v in enumerate(verdicts) if v.word == word]
    means = [v.claim.interval[0] for _, v in rows]
    halves = [v.claim.interval[1] for _, v in rows]
    axis.errorbar(
      means,
      [-i for i, _ in rows],
      xerr=halves,
      label=f"{word} ({len(rows)})",
      capsize=2,
      markersize=5,
      color=style["color"],
      marker=style["marker"],
      linestyle="",
    )
  axis.axvline(0, color="0.4", linewidth=1)
  axis.set_xscale("symlog", linthresh=1)
  axis.set_yticks(
    [-i for i in range(len(verdicts))],
    [v.claim.statement for v in verdicts],
    fontsize=7,
  )
  axis.set(xlabel="Difference in points of test error; the claim: left of zero")
  finish(figure, axis, "Mean of paired differences, 95% interval", path)


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
