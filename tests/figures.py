"""Figures that code draws, by their data instead of their pixels."""

import os

from matplotlib.figure import Figure


def record_figures(monkeypatch):
  """Return a dict that gets every figure when it is saved, by file name."""
  figures, save = {}, Figure.savefig

  def save_and_record(figure, file, **kwargs):
    figures[os.path.basename(file.name)] = figure
    save(figure, file, **kwargs)

  monkeypatch.setattr(Figure, "savefig", save_and_record)
  return figures


def lines_of(axis):
  """Return x and y of the lines of an axis, by label."""
  return {
    line.get_label(): tuple(map(list, line.get_data())) for line in axis.lines
  }


def legend_title(figure):
  """Return the title of the only legend of a figure."""
  (legend,) = figure.legends
  return legend.get_title().get_text()
