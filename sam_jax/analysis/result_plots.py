"""Plots of finished runs."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sam_jax.analysis import results
from sam_jax.analysis.plot_style import STYLES, finish, plt
from sam_jax.analysis.results import Group

_NOISE = "dataset.label_noise.rate"

# A plot of error against each: field -> (label of its axis, file).
_AXES = {
  "sam.rho": ("rho, radius of the neighbourhood", "error_against_rho.png"),
  "sam.m": ("m, examples that share a perturbation", "error_against_m.png"),
  _NOISE: ("Corrupted training labels (%)", "error_against_noise.png"),
}


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
  for field, (_, name) in _AXES.items():
    if plot_against(groups, field, output / name):
      files.append(output / name)
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
  fields = results.differing_fields(groups)
  count = len(STYLES)
  parts = [groups[i : i + count] for i in range(0, len(groups), count)]
  files = []
  for number, part in enumerate(parts, start=1):
    suffix = f"_{number}" if len(parts) > 1 else ""
    files.append(output / f"learning_curves{suffix}.png")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for group, style in zip(part, STYLES, strict=False):
      label = results.label(group, fields)
      for axis, split in zip(axes, ("test", "train"), strict=True):
        _draw_curve(axis, group, f"{split}/error_rate", style, label)
    axes[0].set(title="Test", ylabel="Error (%)")
    axes[1].set_title("Training batches, as augmented and labelled")
    for axis in axes:
      axis.set(xlabel="Epoch", ylim=(0, None))
      axis.xaxis.get_major_locator().set_params(integer=True)
    finish(figure, axes[0], "Mean of seeds; shaded: all seeds", files[-1])
  return files


def plot_against(
  groups: Sequence[Group], field: str, path: pathlib.Path
) -> bool:
  """Draws the last test error against a field; other fields make other lines.

  Args:
    groups: Finished runs, grouped over seeds.
    field: "sam.rho", "sam.m" or "dataset.label_noise.rate".
    path: File to write.

  Returns:
    Whether there was a line of at least two points to draw.
  """
  lines = {
    name: line for name, line in _lines(groups, field).items() if len(line) > 1
  }
  if not lines:
    return False
  figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
  for i, (name, line) in enumerate(lines.items()):
    xs = sorted(line)
    last = [[run.last() for run in line[x].runs] for x in xs]
    axis.errorbar(
      xs,
      [np.mean(values) for values in last],
      np.nan_to_num([results.confidence_half_width(v) for v in last]),
      label=name,
      capsize=3,
      elinewidth=1,
      markersize=5,
      **STYLES[i % len(STYLES)],
    )
  ticks = sorted({x for line in lines.values() for x in line})
  _scale(axis, field, ticks)
  axis.set(xlabel=_AXES[field][0], ylabel="Test error at the end (%)")
  axis.set_ylim(bottom=max(axis.get_ylim()[0], 0))  # intervals may go below
  finish(figure, axis, "Mean and 95% interval over seeds", path)
  return True


def plot_error_reduction(groups: Sequence[Group], path: pathlib.Path) -> bool:
  """Draws by how much SAM lowers the error, a dot for each pair of groups.

  As in figure 1 (left) of the paper: the baseline of a SAM run of N epochs is
  the better one of N and 2N epochs without SAM, all else being equal.

  Args:
    groups: Finished runs, grouped over seeds.
    path: File to write.

  Returns:
    Whether there was a pair to draw.
  """
  pairs = _pairs(groups)
  if not pairs:
    return False
  tasks = list(dict.fromkeys(_task(sam) for sam, _ in pairs))
  names = list(dict.fromkeys(sam.fields["model.name"] for sam, _ in pairs))
  width = max(5, 1.5 + len(tasks))
  figure, axis = plt.subplots(figsize=(width, 3.8), layout="constrained")
  for i, name in enumerate(names):
    own = [pair for pair in pairs if pair[0].fields["model.name"] == name]
    offset = 0.5 * ((i + 0.5) / len(names) - 0.5)
    axis.plot(
      [tasks.index(_task(sam)) + offset for sam, _ in own],
      [100 * (1 - sam.mean() / baseline.mean()) for sam, baseline in own],
      label=name,
      **(STYLES[i % len(STYLES)] | {"linestyle": "", "markersize": 6}),
    )
  axis.axhline(0, color="black", linewidth=0.8)
  axis.set_xticks(range(len(tasks)), tasks)
  axis.set(xlim=(-0.6, len(tasks) - 0.4), ylabel="Error reduction by SAM (%)")
  note = "A dot: means over seeds with SAM and without, all else being equal"
  finish(figure, axis, note, path)
  return True


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


def _lines(
  groups: Sequence[Group], field: str
) -> dict[str, dict[float, Group]]:
  """Label -> value of a field -> group; other fields differ between lines.

  Against label noise, where the paper's rho depends on the rate, a line is SAM
  or SGD whatever its rho, unless there are several at the same rate.
  """
  others = [f for f in results.differing_fields(groups) if f != field]
  if field == _NOISE and "sam.rho" in others:
    others.remove("sam.rho")
    lines, is_unique = _collect(groups, field, others, with_method=True)
    if is_unique:
      return lines
    others.append("sam.rho")
  lines, _ = _collect(groups, field, others)
  return lines


def _collect(
  groups: Sequence[Group],
  field: str,
  others: Sequence[str],
  with_method: bool = False,
) -> tuple[dict[str, dict[float, Group]], bool]:
  """The lines, and whether no two groups are at the same place of one."""
  lines, count = {}, 0
  for group in groups:
    value = group.fields.get(field)
    if value is None:  # m of a device: its number is not on record
      continue
    parts = [_method(group)] if with_method else []
    if others or not parts:
      parts.append(results.label(group, others))
    lines.setdefault(", ".join(parts), {})[value] = group
    count += 1
  return lines, count == sum(len(line) for line in lines.values())


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


def _pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
  """Every group with SAM, and the best baseline that it can be held against."""
  baselines = {}
  for group in groups:
    if not group.fields["sam.rho"]:
      baselines.setdefault(_key_without_sam(group), []).append(group)
  pairs = []
  for group in groups:
    epochs = group.fields["num_epochs"]
    rivals = [
      baseline
      for baseline in baselines.get(_key_without_sam(group), [])
      if baseline.fields["num_epochs"] in (epochs, 2 * epochs)
    ]
    if group.fields["sam.rho"] and rivals:
      best = min(rivals, key=Group.mean)
      if best.mean() > 0:
        pairs.append((group, best))
  return pairs


def _key_without_sam(group: Group) -> frozenset[tuple[str, Any]]:
  """What a run and its baseline have in common."""
  # m is among it: it also decides who shares batch statistics.
  return frozenset(
    (name, value)
    for name, value in group.fields.items()
    if name != "num_epochs" and (name == "sam.m" or not name.startswith("sam."))
  )


def _task(group: Group) -> str:
  rate = group.fields[_NOISE]
  noise = f"\n{100 * rate:g}% noise" if rate else ""
  return group.fields["dataset.name"] + noise


def _method(group: Group) -> str:
  return "SAM" if group.fields["sam.rho"] else "SGD"
