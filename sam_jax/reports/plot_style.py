"""The look of all plots. Lines also differ in style, for print in grey."""

import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # every plot takes it from here

# Of light and of dark colours every second is a dashed line.
STYLES = (
  {"color": "#0b3c5d", "linestyle": "-", "marker": "o"},
  {"color": "#e07b00", "linestyle": "--", "marker": "s"},
  {"color": "#2f9e77", "linestyle": "-.", "marker": "^"},
  {"color": "#b3266b", "linestyle": ":", "marker": "D"},
  {"color": "#7a7a7a", "linestyle": "-", "marker": "v"},
  {"color": "#4fa3d9", "linestyle": "--", "marker": "x"},
)


def finish(figure, axis, note: str, path: pathlib.Path) -> None:
  """Adds grid, legend and note, and writes the file.

  Args:
    figure: A figure in constrained layout.
    axis: The one whose lines the legend names; there is none without labels.
    note: Title of the legend.
    path: File to write.
  """
  for each in figure.axes:
    each.grid(alpha=0.3)
    each.spines[["top", "right"]].set_visible(False)
  handles, labels = axis.get_legend_handles_labels()
  columns = 2 if max(map(len, labels), default=0) < 40 else 1
  figure.legend(
    handles,
    labels,
    title=note,
    title_fontsize="small",
    fontsize="small",
    loc="outside lower center",
    ncols=columns,
    frameon=False,
  )
  figure.savefig(path, dpi=150)
  plt.close(figure)
