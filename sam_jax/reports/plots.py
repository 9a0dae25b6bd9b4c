"""Plots of finished runs."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sam_jax.reports import results
from sam_jax.reports.error_reduction import plot_error_reduction
from sam_jax.reports.plot_labels import label_part, legend_height, parts_of
from sam_jax.reports.plot_style import STYLES, finish, plt
from sam_jax.reports.results import LABEL_FILE, NOISE_RATE, Group


class _Axis(NamedTuple):
  """What the error is drawn against.

  Attributes:
    label: Label of the axis.
    file: File of the plot.
    min_points: Lines of less are left out. Against rho two points are a pair of
      SAM and SGD, and no curve: that is what the error reduction shows.
  """

  label: str
  file: str
  min_points: int


_AXES = {
  "sam.rho": _Axis(
    "rho, radius of the neighbourhood", "error_against_rho.png", 3
  ),
  "sam.m": _Axis(
    "m, examples that share a perturbation", "error_against_m.png", 2
  ),
  NOISE_RATE: _Axis(
    "Corrupted training labels (%)", "error_against_noise.png", 2
  ),
}

# Fields that may differ along a line. The paper chooses rho and alpha for each
# rate of label noise; bootstrapped labels are those of a network with this rho.
_FOLLOWERS = {
  NOISE_RATE: ("num_epochs", "sam.rho", "augment.mixup_alpha", LABEL_FILE),
  "sam.rho": (LABEL_FILE,),
}


class _Line(NamedTuple):
  """Groups that differ in the field of the axis, and in those that follow it.

  Attributes:
    method: "" where the other fields tell it.
    groups: By the value of the field.
    ignored: The field, and those that follow it.
  """

  method: str
  groups: dict[float, Group]
  ignored: tuple[str, ...]


def write_plots(
  groups: Sequence[Group], output: pathlib.Path
) -> list[pathlib.Path]:
  """Writes every plot that there are runs for.

  Args:
    groups: Finished runs, grouped over seeds.
    output: A directory.

  Returns:
    The files.
  """
  files = plot_learning_curves(groups, output)
  for field in _AXES:
    files += plot_against(groups, field, output)
  path = output / "error_reduction.png"
  if plot_error_reduction(groups, path):
    files.append(path)
  return files


def plot_learning_curves(
  groups: Sequence[Group], output: pathlib.Path
) -> list[pathlib.Path]:
  """Draws the error over the epochs, a few groups in each file.

  Args:
    groups: Finished runs, grouped over seeds.
    output: Directory for learning_curves.png, or ..._1.png and so on.

  Returns:
    The files.
  """
  files = []
  for part, path in parts_of(groups, output / "learning_curves.png"):
    labels, title = label_part(part, groups)
    height = 3.6 + legend_height(labels)
    figure, axes = plt.subplots(1, 2, figsize=(9, height), layout="constrained")
    for group, style, label in zip(part, STYLES, labels, strict=False):
      for axis, split in zip(axes, ("test", "train"), strict=True):
        _draw_curve(axis, group, f"{split}/error_rate", style, label)
    axes[0].set(title="Test", ylabel="Error (%)")
    axes[1].set_title("Training batches, as augmented and labelled")
    for axis in axes:
      axis.set(xlabel="Epoch", ylim=(0, None))
      axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, fontsize="medium")
    finish(figure, axes[0], "Mean of seeds; shaded: all seeds", path)
    files.append(path)
  return files


def plot_against(
  groups: Sequence[Group], field: str, output: pathlib.Path
) -> list[pathlib.Path]:
  """Draws the last test error against a field; other fields make other lines.

  Args:
    groups: Finished runs, grouped over seeds.
    field: "sam.rho", "sam.m" or "dataset.label_noise.rate".
    output: Directory for the file, or the files if there are many lines.

  Returns:
    The files; none without a line of enough points.
  """
  lines = [
    line
    for line in _lines(groups, field)
    if len(line.groups) >= _AXES[field].min_points
  ]
  files = []
  for part, path in parts_of(lines, output / _AXES[field].file):
    labels, title = _line_labels(part, lines)
    height = 3.8 + legend_height(labels)
    figure, axis = plt.subplots(figsize=(6.5, height), layout="constrained")
    for line, style, label in zip(part, STYLES, labels, strict=False):
      _draw_line(axis, line, style, label)
    _scale(axis, field, sorted({x for line in part for x in line.groups}))
    axis.set(xlabel=_AXES[field].label, ylabel="Test error at the end (%)")
    axis.set_ylim(bottom=max(axis.get_ylim()[0], 0))  # intervals may go below
    figure.suptitle(title, fontsize="medium")
    finish(figure, axis, "Mean and 95% interval over seeds", path)
    files.append(path)
  return files


def _line_labels(
  part: Sequence[_Line], lines: Sequence[_Line]
) -> tuple[list[str], str]:
  """Like `label_part`, for lines, which may have a method."""
  # What follows the axis in one line may tell another from it.
  ignored = set.intersection(*(set(line.ignored) for line in lines))
  examples = [
    [next(iter(line.groups.values())) for line in each]
    for each in (part, lines)
  ]
  labels, title = label_part(*examples, ignored)
  is_named = results.naming_fields(examples[1], ignored)
  for i, line in enumerate(part):
    if line.method:
      labels[i] = f"{line.method}, {labels[i]}" if is_named else line.method
  return labels, title


def _draw_curve(axis, group: Group, tag: str, style, label: str) -> None:
  """The mean over seeds, and the range of seeds around it."""
  curves = [run.curve(tag) for run in group.runs]
  length = min(len(epochs) for epochs, _ in curves)
  if not length:
    return
  epochs = curves[0][0][:length]
  values = 100 * np.array([values[:length] for _, values in curves])
  spacing = max(length // 8, 1)
  axis.plot(
    epochs,
    values.mean(0),
    label=label,
    markevery=spacing,
    markersize=4,
    **style,
  )
  low, high = values.min(0), values.max(0)
  axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15)


def _draw_line(axis, line: _Line, style, label: str) -> None:
  """The mean over seeds and its interval, at every value of the field."""
  xs = sorted(line.groups)
  last = [[run.last() for run in line.groups[x].runs] for x in xs]
  axis.errorbar(
    xs,
    [np.mean(values) for values in last],
    np.nan_to_num([results.confidence_half_width(v) for v in last]),
    label=label,
    capsize=3,
    elinewidth=1,
    markersize=5,
    **style,
  )


def _lines(groups: Sequence[Group], field: str) -> list[_Line]:
  """Groups along a field.

  What follows the field may differ along a line, unless several groups would
  then be at the same place. Against label noise a line is a method.
  """
  followers = _FOLLOWERS.get(field, ())
  if field == NOISE_RATE:
    lost = results.beaten(groups)
    groups = [group for group in groups if group not in lost]
  lines, crowded = _collect(groups, field, followers)
  return [*lines, *_collect(crowded, field, ())[0]]


def _collect(
  groups: Sequence[Group], field: str, followers: Sequence[str]
) -> tuple[list[_Line], list[Group]]:
  """The lines, and the groups of those with several at the same place."""
  ignored = (field, *followers)
  others = [
    name for name in results.differing_fields(groups) if name not in ignored
  ]
  members = {}
  for group in groups:
    if group.fields.get(field) is None:
      continue  # m of a device: its number is not on record
    method = results.method(group) if "sam.rho" in followers else ""
    key = (method, *(group.fields.get(name) for name in others))
    members.setdefault(key, []).append(group)
  lines, crowded = [], []
  for (method, *_), line in members.items():
    places = {group.fields[field]: group for group in line}
    if len(places) == len(line):
      lines.append(_Line(method, places, ignored))
    else:
      crowded += line
  return lines, crowded


def _scale(axis, field: str, ticks: Sequence[float]) -> None:
  """Shows every value of a field, the small ones apart from each other."""
  labels = [f"{tick:g}" for tick in ticks]
  if field == "sam.m":
    axis.set_xscale("log", base=2)
  elif field == "sam.rho":
    smallest = min((tick for tick in ticks if tick > 0), default=1)
    axis.set_xscale("symlog", linthresh=smallest)
  else:
    labels = [f"{100 * tick:g}" for tick in ticks]
  axis.set_xticks(ticks, labels)
  axis.minorticks_off()
