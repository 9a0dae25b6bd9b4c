"""The look of all plots. Lines also differ in style, for print in gray."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import matplotlib
from etils import epath

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # every plot imports it from here
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_Item = TypeVar("_Item")

# Colors alternate between dark and light, and every second line is not solid.
STYLES: tuple[dict[str, Any], ...] = (
  {"color": "#0b3c5d", "linestyle": "-", "marker": "o"},
  {"color": "#e07b00", "linestyle": "--", "marker": "s"},
  {"color": "#2f9e77", "linestyle": "-.", "marker": "^"},
  {"color": "#b3266b", "linestyle": ":", "marker": "D"},
  {"color": "#7a7a7a", "linestyle": "-", "marker": "v"},
  {"color": "#4fa3d9", "linestyle": "--", "marker": "x"},
)

_INCHES_PER_LEGEND_LINE = 0.19

# Labels of fewer characters stand side by side in a legend.
_SHORT_LABEL = 40


def split_by_styles(
  items: Sequence[_Item], path: epath.Path
) -> Iterator[tuple[Sequence[_Item], epath.Path]]:
  """Yield as many items for each file as there are styles.

  Args:
    items: What to draw.
    path: File of the figure; with several figures, "a.png" becomes "a_1.png"
      and so on.

  Yields:
    Some items, and the file for them.
  """
  size = len(STYLES)
  parts = [items[i : i + size] for i in range(0, len(items), size)]
  for number, part in enumerate(parts, start=1):
    suffix = f"_{number}" if len(parts) > 1 else ""
    yield part, path.with_stem(path.stem + suffix)


def legend_height(labels: Sequence[str]) -> float:
  """Return the height of a legend in inches."""
  lines = sum(label.count("\n") + 1 for label in labels)
  if _num_columns(labels) == 2:
    lines = (lines + 1) // 2
  return _INCHES_PER_LEGEND_LINE * lines


def finish(figure: Figure, axis: Axes, note: str, path: epath.Path) -> None:
  """Add grid, legend and note to a figure, write it and close it.

  Args:
    figure: A figure in constrained layout.
    axis: The axis whose lines the legend names; without labels there is no
      legend.
    note: Title of the legend.
    path: File to write.
  """
  for each in figure.axes:
    each.grid(alpha=0.3)
    each.spines[["top", "right"]].set_visible(False)
  handles, labels = axis.get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    title=note,
    title_fontsize="small",
    fontsize="small",
    loc="outside lower center",
    ncols=_num_columns(labels),
    frameon=False,
  )
  save(figure, path)


def save(figure: Figure, path: epath.Path, **options: Any) -> None:
  """Write a figure as PNG to a local or gs:// path, and close it.

  Args:
    figure: The figure.
    path: File to write.
    **options: Further arguments of `Figure.savefig`.
  """
  with path.open("wb") as file:
    figure.savefig(file, dpi=150, format="png", **options)
  plt.close(figure)


def _num_columns(labels: Sequence[str]) -> int:
  return 2 if max(map(len, labels), default=0) < _SHORT_LABEL else 1
