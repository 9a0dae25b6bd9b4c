"""By how much SAM lowers the error: figure 1 (left) of the paper."""

import pathlib
from collections.abc import Sequence
from typing import Any

from sam_jax.reports import results
from sam_jax.reports.plot_labels import legend_height
from sam_jax.reports.plot_style import STYLES, finish, plt
from sam_jax.reports.results import NOISE_RATE, Group

_MARKERS = "os^Dvx*P<>phX+"  # more than there are colours


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
  pairs = pair_with_baselines(groups)
  if not pairs:
    return False
  tasks = list(dict.fromkeys(_task(sam) for sam, _ in pairs))
  names = list(dict.fromkeys(sam.fields["model.name"] for sam, _ in pairs))
  size = max(6, 1.5 + 0.7 * len(tasks)), 4.2 + legend_height(names)
  figure, axis = plt.subplots(figsize=size, layout="constrained")
  for i, name in enumerate(names):
    own = [pair for pair in pairs if pair[0].fields["model.name"] == name]
    offset = 0.5 * ((i + 0.5) / len(names) - 0.5)
    axis.plot(
      [tasks.index(_task(sam)) + offset for sam, _ in own],
      [100 * (1 - sam.mean() / baseline.mean()) for sam, baseline in own],
      label=name,
      linestyle="",
      marker=_MARKERS[i % len(_MARKERS)],
      markersize=6,
      color=STYLES[i % len(STYLES)]["color"],
    )
  axis.axhline(0, color="black", linewidth=0.8)
  axis.set_xticks(range(len(tasks)), tasks)
  if len(tasks) > 4:
    style = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    plt.setp(axis.get_xticklabels(), **style)
  axis.set(xlim=(-0.6, len(tasks) - 0.4), ylabel="Error reduction by SAM (%)")
  finish(figure, axis, _note_on(pairs), path)
  return True


def _note_on(pairs: Sequence[tuple[Group, Group]]) -> str:
  """What a dot compares."""
  note = "A dot: means over seeds with SAM and without, all else being equal"
  noisy = [pair[1] for pair in pairs if pair[0].fields[NOISE_RATE]]
  if not noisy:
    return note
  rivals = " or ".join(sorted({results.method(baseline) for baseline in noisy}))
  return f"{note}\nThe baseline under label noise: {rivals}"


def pair_with_baselines(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
  """Every group with SAM, and the best baseline that it can be held against.

  Under label noise that is Mixup, as in the paper, if there are such runs.
  """
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
    rivals = [r for r in rivals if r.fields["augment.mixup_alpha"]] or rivals
    if group.fields["sam.rho"] and rivals:
      best = min(rivals, key=Group.mean)
      if best.mean() > 0:
        pairs.append((group, best))
  return pairs


def _key_without_sam(group: Group) -> frozenset[tuple[str, Any]]:
  """What a run and its baseline have in common."""
  free = {"num_epochs"}
  if group.fields[NOISE_RATE]:
    free.add("augment.mixup_alpha")
  # m is among it: it also decides who shares batch statistics.
  return frozenset(
    (name, value)
    for name, value in group.fields.items()
    if name not in free and (name == "sam.m" or not name.startswith("sam."))
  )


def _task(group: Group) -> str:
  rate = group.fields[NOISE_RATE]
  noise = f"\n{100 * rate:g}% noise" if rate else ""
  return group.fields["dataset.name"] + noise
