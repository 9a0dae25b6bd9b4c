"""Figures have the data that they are given."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sam_jax.reports.results import confidence_half_width
from scripts.reproduce import plots
from scripts.reproduce.claims import Claim, judge


@pytest.fixture
def figure(monkeypatch, tmp_path):
  """Return the figure of a function that draws one to a path."""
  written = []
  finish = plots.finish

  def keep(figure, *arguments):
    written.append(figure)
    finish(figure, *arguments)

  monkeypatch.setattr(plots, "finish", keep)

  def draw(function, *arguments):
    path = tmp_path / "figure.png"
    function(*arguments, path)
    assert path.exists()
    return written.pop()

  yield draw
  plt.close("all")


def check_intervals(container, positions, rows):
  """Compare means and 95% intervals of a line with rows of values."""
  line, _, (bars,) = container
  means = np.mean(rows, axis=1)
  halves = [confidence_half_width(list(row)) for row in rows]
  np.testing.assert_allclose(line.get_xdata(orig=False), positions)
  np.testing.assert_allclose(line.get_ydata(orig=False), means)
  found = [segment[:, 1] for segment in bars.get_segments()]
  np.testing.assert_allclose(
    found, np.stack([means - halves, means + halves]).T
  )


def labels(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def test_errors_against_noise(figure):
  lines = {"SGD": [[4.0, 5.0], [7.0, 9.0]], "SAM": [[3.0, 3.5], [4.0, 6.0]]}
  found = figure(plots.draw_against_noise, lines, [0, 20])
  (axis,) = found.axes
  for container, rows in zip(axis.containers, lines.values(), strict=True):
    check_intervals(container, [0, 20], rows)
  assert labels(found) == ["SGD", "SAM"]
  assert axis.get_xlabel() == "Training labels redrawn (%)"
  assert axis.get_ylabel() == "Test error (%)"


def test_errors_against_rho(figure):
  lines = {
    "m = 4": {0.1: [4.0, 5.0], 0.2: [3.0, 3.5]},
    "m = 8": {0.2: [5.0, 6.0], 0.8: [2.0, 4.0]},
  }
  found = figure(plots.draw_against_rho, lines, [4.0, 6.0])
  (axis,) = found.axes
  first, second = axis.containers
  check_intervals(first, [0.1, 0.2], list(lines["m = 4"].values()))
  # Moved a little to the right of the first one.
  check_intervals(second, [0.203, 0.812], list(lines["m = 8"].values()))
  sgd = next(line for line in axis.lines if line.get_label() == "SGD")
  assert list(sgd.get_ydata()) == [5.0, 5.0]
  (interval,) = axis.patches
  half = confidence_half_width([4.0, 6.0])
  assert interval.get_y() == pytest.approx(5 - half)
  assert interval.get_height() == pytest.approx(2 * half)
  assert sorted(labels(found)) == ["SGD", "m = 4", "m = 8"]
  assert axis.get_xscale() == "log"
  assert list(axis.get_xticks()) == [0.1, 0.2, 0.8]


def test_eigenvalues_along_training(figure):
  lines = {
    "SGD": [[1.0, 100.0], [10.0, 10.0]],
    "SAM": [[1.0, 1.0], [0.1, 0.001]],
  }
  found = figure(plots.draw_along_training, lines, [1, 8])
  (axis,) = found.axes
  for container, rows in zip(axis.containers, lines.values(), strict=True):
    check_intervals(container, [1, 8], np.log10(rows))
  assert labels(found) == ["SGD", "SAM"]


def test_claims_from_top_to_bottom_by_verdict(figure):
  claims = [
    Claim(f"claim {i}", "", "", tuple(center + x for x in (-0.1, 0, 0.1)))
    for i, center in enumerate([-3.0, 0.0, 2.0])
  ]
  found = figure(plots.draw_verdicts, judge(claims))
  (axis,) = found.axes
  assert [t.get_text() for t in axis.get_yticklabels()] == [
    "claim 0",
    "claim 1",
    "claim 2",
  ]
  words = ["reproduced (1)", "not reproduced (1)", "contradicted (1)"]
  assert labels(found) == words
  for row, container in enumerate(axis.containers):
    line, _, (bars,) = container
    mean, half = claims[row].interval
    np.testing.assert_allclose(line.get_xydata(), [[mean, -row]])
    (segment,) = bars.get_segments()
    np.testing.assert_allclose(segment[:, 0], [mean - half, mean + half])


def test_scores_against_m(figure):
  scores = {1: [0.1, 0.2], 64: [0.3, 0.5], 65: [0.2, 0.2]}
  found = figure(plots.draw_scores, scores, [0.01, 0.05, 0.03])
  (axis,) = found.axes
  (container,) = axis.containers
  check_intervals(container, [1, 64, 65], list(scores.values()))
  (random,) = axis.patches
  assert random.get_y() == pytest.approx(0.01)
  assert random.get_height() == pytest.approx(0.04)
  # There is no room for 65 next to 64.
  assert [t.get_text() for t in axis.get_xticklabels()] == ["1", "64", ""]
  assert axis.get_ylim()[0] == 0
