"""Plots of finished runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from matplotlib.axes import Axes

from sam_jax.reports import results
from sam_jax.reports.baselines import Comparison, compare_with_baselines
from sam_jax.reports.plot_style import (
  STYLES,
  finish,
  legend_height,
  plt,
  split_by_styles,
)
from sam_jax.reports.results import NOTES, Group
from sam_jax.reports.run_records import LABEL_FILE, NOISE_RATE

# Panels of the learning curves; the last one only where runs logged it.
_CURVES = {
  "test/error_rate": "Test",
  "train/error_rate": "Training batches, as augmented and labeled",
  "clean_train/error_rate": "Training set, clean",
}

_MARKERS = "os^Dvx*P<>phX+"  # more than there are colors


class _XAxis(NamedTuple):
  """A field that the error is drawn against.

  Attributes:
    label: Label of the axis.
    file: File of the plot.
    min_points: Lines of fewer points are left out. Two values of rho are a pair
      of SAM and SGD, which the error reduction shows, and no curve.
    followers: Fields that may differ along a line.
  """

  label: str
  file: str
  min_points: int
  followers: tuple[str, ...] = ()


_X_AXES = {
  "sam.rho": _XAxis(
    "rho, radius of the neighborhood",
    "error_against_rho.png",
    3,
    # Bootstrapped labels are those of a network with the same rho.
    (NOTES, LABEL_FILE),
  ),
  "sam.m": _XAxis(
    "m, examples that share a perturbation",
    "error_against_m.png",
    2,
    (NOTES,),
  ),
  NOISE_RATE: _XAxis(
    "Corrupted training labels (%)",
    "error_against_noise.png",
    2,
    # The paper chooses rho and alpha for each rate of label noise.
    (NOTES, "num_epochs", "sam.rho", "augment.mixup_alpha", LABEL_FILE),
  ),
}


class _Line(NamedTuple):
  """Groups that differ in the field of the x axis and in its followers.

  Attributes:
    method: Name of the method; "" where the other fields tell it.
    groups: Groups by the value of the field.
    ignored: The field and its followers.
  """

  method: str
  groups: dict[float, Group]
  ignored: tuple[str, ...]


def write_plots(
  groups: Sequence[Group], output: epath.Path
) -> list[epath.Path]:
  """Write every plot that there are runs for.

  Args:
    groups: Finished runs, grouped over seeds.
    output: A directory.

  Returns:
    The files.
  """
  files = plot_learning_curves(groups, output)
  for field in _X_AXES:
    files += plot_against(groups, field, output)
  return files + plot_error_reduction(groups, output)


def plot_learning_curves(
  groups: Sequence[Group], output: epath.Path
) -> list[epath.Path]:
  """Draw errors over the epochs, a few groups in each figure.

  Args:
    groups: Finished runs, grouped over seeds.
    output: Directory for learning_curves.png, or learning_curves_1.png etc.

  Returns:
    The files.
  """
  tags = list(_CURVES)
  if not any(run.curve(tags[-1]) for group in groups for run in group.runs):
    tags.pop()
  files = []
  for part, path in split_by_styles(groups, output / "learning_curves.png"):
    labels, title = results.labels_and_title(part, groups)
    size = 4.5 * len(tags), 3.6 + legend_height(labels)
    figure, axes = plt.subplots(
      ncols=len(tags),
      sharex=True,
      sharey=True,
      figsize=size,
      layout="constrained",
    )
    for group, style, label in zip(part, STYLES, labels, strict=False):
      for axis, tag in zip(axes, tags, strict=True):
        _draw_curve(axis, group, tag, style, label)
    for axis, tag in zip(axes, tags, strict=True):
      axis.set(title=_CURVES[tag], xlabel="Epoch", ylim=(0, None))
      axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("Error (%)")
    figure.suptitle(title, fontsize="medium")
    note = "Mean of seeds; shaded: all seeds" if _have_seeds(part) else ""
    finish(figure, axes[0], note, path)
    files.append(path)
  return files


def plot_against(
  groups: Sequence[Group], field: str, output: epath.Path
) -> list[epath.Path]:
  """Draw the last test error against a field; other fields make other lines.

  Args:
    groups: Finished runs, grouped over seeds.
    field: "sam.rho", "sam.m" or "dataset.label_noise.rate".
    output: Directory for the file, or the files if there are many lines.

  Returns:
    The files; none without a line of enough points.
  """
  x_axis = _X_AXES[field]
  lines = [
    line
    for line in _lines(groups, field)
    if len(line.groups) >= x_axis.min_points
  ]
  files = []
  for part, path in split_by_styles(lines, output / x_axis.file):
    labels, title = _labels_and_title(part, lines)
    height = 3.8 + legend_height(labels)
    figure, axis = plt.subplots(figsize=(6.5, height), layout="constrained")
    for line, style, label in zip(part, STYLES, labels, strict=False):
      _draw_line(axis, line, style, label)
    _set_ticks(axis, field, sorted({x for line in part for x in line.groups}))
    axis.set(xlabel=x_axis.label, ylabel="Test error at the end (%)")
    axis.set_ylim(bottom=max(axis.get_ylim()[0], 0))  # intervals may go below
    figure.suptitle(title, fontsize="medium")
    drawn = [group for line in part for group in line.groups.values()]
    note = "Mean and 95% interval over seeds" if _have_seeds(drawn) else ""
    finish(figure, axis, note, path)
    files.append(path)
  return files


def plot_error_reduction(
  groups: Sequence[Group], output: epath.Path
) -> list[epath.Path]:
  """Draw the error reduction by SAM, as in figure 1 (left) of the paper.

  Args:
    groups: Finished runs, grouped over seeds.
    output: Directory for error_reduction.png.

  Returns:
    The file; none for a single pair of groups, whose number is in the table.
  """
  pairs = compare_with_baselines(groups)
  if len(pairs) < 2:
    return []
  tasks = list(dict.fromkeys(_task(pair.sam) for pair in pairs))
  models = list(dict.fromkeys(pair.sam.fields["model.name"] for pair in pairs))
  size = max(6, 1.5 + 0.7 * len(tasks)), 4.2 + legend_height(models)
  figure, axis = plt.subplots(figsize=size, layout="constrained")
  for i, model in enumerate(models):
    own = [pair for pair in pairs if pair.sam.fields["model.name"] == model]
    offset = 0.5 * ((i + 0.5) / len(models) - 0.5)
    axis.plot(
      [tasks.index(_task(pair.sam)) + offset for pair in own],
      [pair.reduction for pair in own],
      label=model,
      linestyle="",
      marker=_MARKERS[i % len(_MARKERS)],
      markersize=6,
      color=STYLES[i % len(STYLES)]["color"],
    )
  axis.axhline(0, color="black", linewidth=0.8)
  axis.set_xticks(range(len(tasks)), tasks)
  if len(tasks) > 4:
    for text in axis.get_xticklabels():
      text.set(rotation=40, ha="right", rotation_mode="anchor")
  axis.set(xlim=(-0.6, len(tasks) - 0.4), ylabel="Error reduction by SAM (%)")
  path = output / "error_reduction.png"
  finish(figure, axis, _note_on_baselines(pairs), path)
  return [path]


def _have_seeds(groups: Iterable[Group]) -> bool:
  """Return True if some group has several runs."""
  return any(len(group.runs) > 1 for group in groups)


def _task(group: Group) -> str:
  """Return the data set and its label noise, as a label of the x axis."""
  rate = group.fields[NOISE_RATE]
  noise = f"\n{100 * rate:g}% noise" if rate else ""
  return group.fields["dataset.name"] + noise


def _note_on_baselines(pairs: Sequence[Comparison]) -> str:
  """Return a line about what a dot compares."""
  means = (
    "means over seeds " if _have_seeds(g for p in pairs for g in p) else ""
  )
  note = f"A dot: {means}with SAM and without, all else being equal"
  noisy = [pair.baseline for pair in pairs if pair.sam.fields[NOISE_RATE]]
  if not noisy:
    return note
  names = " or ".join(sorted({results.method_name(group) for group in noisy}))
  return f"{note}\nThe baseline under label noise: {names}"


def _labels_and_title(
  part: Sequence[_Line], lines: Sequence[_Line]
) -> tuple[list[str], str]:
  """Like `results.labels_and_title`, for lines, which may have a method."""
  # A field that follows the x axis in one line may distinguish other lines.
  shared = set.intersection(*(set(line.ignored) for line in lines))
  ignored = sorted(shared)
  first_groups = [next(iter(line.groups.values())) for line in lines]
  own_groups = [next(iter(line.groups.values())) for line in part]
  labels, title = results.labels_and_title(own_groups, first_groups, ignored)
  is_named = results.distinguishing_fields(first_groups, ignored)
  for i, line in enumerate(part):
    if line.method:
      labels[i] = f"{line.method}, {labels[i]}" if is_named else line.method
  return labels, title


def _draw_curve(
  axis: Axes, group: Group, tag: str, style: Mapping[str, Any], label: str
) -> None:
  """Draw the mean over seeds and the range of seeds around it.

  Seeds are compared at the epochs that all of them logged; runs without a log
  of this scalar are left out.
  """
  curves = [curve for run in group.runs if (curve := run.curve(tag))]
  shared = set.intersection(*map(set, curves)) if curves else set()
  epochs = sorted(shared)
  values = 100 * np.array([[curve[x] for x in epochs] for curve in curves])
  axis.plot(
    epochs,
    values.mean(0) if epochs else [],
    label=label,
    markevery=max(len(epochs) // 8, 1),
    markersize=4,
    **style,
  )
  if epochs and len(curves) > 1:
    low, high = values.min(0), values.max(0)
    axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15)


def _draw_line(
  axis: Axes, line: _Line, style: Mapping[str, Any], label: str
) -> None:
  """Draw the mean over seeds and its interval at every value of the field."""
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
  """Return groups along a field.

  The followers of the field may differ along a line, unless several groups
  would then be at the same place. Against label noise a line is a method.
  """
  if field == NOISE_RATE:
    superseded = results.runners_up(groups)
    groups = [group for group in groups if group not in superseded]
  lines, crowded = _collect(groups, field, _X_AXES[field].followers)
  return [*lines, *_collect(crowded, field, ())[0]]


def _collect(
  groups: Sequence[Group], field: str, followers: Sequence[str]
) -> tuple[list[_Line], list[Group]]:
  """Return lines, and the groups that would share a place on a line."""
  ignored = (field, *followers)
  others = [
    name for name in results.differing_fields(groups) if name not in ignored
  ]
  members: dict[tuple, list[Group]] = {}
  for group in groups:
    if group.fields.get(field) is None:
      continue  # m of a device, whose number is not on record
    method = results.method_name(group) if "sam.rho" in followers else ""
    key = (method, *(group.fields.get(name) for name in others))
    members.setdefault(key, []).append(group)
  lines: list[_Line] = []
  crowded: list[Group] = []
  for (method, *_), line in members.items():
    places = {group.fields[field]: group for group in line}
    if len(places) == len(line):
      lines.append(_Line(method, places, ignored))
    else:
      crowded += line
  return lines, crowded


def _set_ticks(axis: Axes, field: str, ticks: Sequence[float]) -> None:
  """Show every value of a field, with small ones apart from each other."""
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
