"""Figures, by the data of their lines."""

import os
import pathlib

import numpy as np
import pytest
from matplotlib.figure import Figure

from sam_jax.config.paper_tables import find_cell
from sam_jax.reports import plots
from sam_jax.reports.plot_style import STYLES, split_by_styles
from sam_jax.runs.workdir import to_dict
from tests.reports.written_runs import (
  TRAIN_EXCESS,
  append_metrics,
  groups_of,
  paper_config,
  write_run,
)


@pytest.fixture
def draw(tmp_path, monkeypatch):
  """Draw the runs of the test's directory; return the figures by file."""

  def run():
    figures = {}
    monkeypatch.setattr(
      Figure,
      "savefig",
      lambda figure, file, **_: figures.update(
        {os.path.basename(file.name): figure}
      ),
    )
    written = plots.write_plots(groups_of(tmp_path), tmp_path)
    assert [path.name for path in written] == list(figures)
    return figures

  return run


def legend(figure):
  """Return the title and the labels of the legend of a figure."""
  (box,) = figure.legends
  return box.get_title().get_text(), [t.get_text() for t in box.get_texts()]


def lines_of(axis):
  """Return x and y of the lines of an axis, by label."""
  return {
    line.get_label(): [list(map(float, xs)) for xs in line.get_data()]
    for line in axis.lines
  }


def bars_of(axis):
  """Return x, y and half-widths of the error bars of an axis, by label."""
  found = {}
  for container in axis.containers:
    line, _, (bars,) = container
    halves = [(high - low) / 2 for (_, low), (_, high) in bars.get_segments()]
    found[container.get_label()] = (*map(list, line.get_data()), halves)
  return found


def near(*values):
  """Return a list that equals others up to rounding."""
  return pytest.approx(list(values))


def test_learning_curves_are_those_of_the_logs(tmp_path, draw):
  write_run(tmp_path / "sgd", [0.5, 0.4], num_epochs=30, sam__rho=0.0)
  write_run(tmp_path / "sam", [0.3, 0.2, 0.1], num_epochs=30)
  figures = draw()
  assert list(figures) == ["learning_curves.png"]
  figure = figures["learning_curves.png"]
  test, train = figure.axes
  assert [axis.get_xlabel() for axis in figure.axes] == ["Epoch", "Epoch"]
  assert (test.get_title(), test.get_ylabel()) == ("Test", "Error (%)")
  assert train.get_title() == "Training batches, as augmented and labeled"
  assert lines_of(test) == {
    "rho 0 (no SAM)": [near(15, 30), near(50, 40)],
    "rho 0.05": [near(10, 20, 30), near(30, 20, 10)],
  }
  excess = 100 * TRAIN_EXCESS
  assert lines_of(train) == {
    "rho 0 (no SAM)": [near(15, 30), near(50 + excess, 40 + excess)],
    "rho 0.05": [near(10, 20, 30), near(*(excess + e for e in (30, 20, 10)))],
  }
  assert legend(figure) == ("", ["rho 0 (no SAM)", "rho 0.05"])
  assert not test.collections  # no range of a single seed
  styles = [(line.get_color(), line.get_linestyle()) for line in test.lines]
  assert styles == [(s["color"], s["linestyle"]) for s in STYLES[:2]]


def test_curves_of_seeds_are_averaged_at_the_epochs_that_all_logged(
  tmp_path, draw
):
  write_run(tmp_path / "a", [0.5, 0.4, 0.3, 0.2], num_epochs=8, seed=0)
  write_run(tmp_path / "b", [0.3, 0.1], num_epochs=8, seed=1)
  write_run(tmp_path / "c", [0.1], num_epochs=8, seed=2)
  (tmp_path / "c/metrics.jsonl").unlink()
  figure = draw()["learning_curves.png"]
  axis = figure.axes[0]
  assert lines_of(axis) == {"all runs": [near(4, 8), near(35, 15)]}
  (area,) = axis.collections
  (path,) = area.get_paths()
  assert {tuple(np.round(v, 6)) for v in path.vertices} == {
    *((4, 30), (4, 40), (8, 10), (8, 20))
  }
  assert legend(figure)[0] == "Mean of seeds; shaded: all seeds"


def test_clean_train_error_has_a_panel_where_it_is_logged(tmp_path, draw):
  write_run(tmp_path / "run", [0.5], num_epochs=30)
  line = {"step": 150, "clean_train/error_rate": 0.25}
  append_metrics(tmp_path / "run", line)
  axis = draw()["learning_curves.png"].axes[2]
  assert axis.get_title() == "Training set, clean"
  assert lines_of(axis) == {"all runs": [[15], [25]]}


def test_error_against_rho(tmp_path, draw):
  for rho in (0.0, 0.1, 0.2):
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
      path = tmp_path / f"{rho}{seed}"
      write_run(path, [0.3 - rho + shift], sam__rho=rho, seed=seed)
  figures = draw()
  figure = figures["error_against_rho.png"]
  (axis,) = figure.axes
  assert axis.get_xlabel() == "rho, radius of the neighborhood"
  width = 4.3027 / np.sqrt(3)
  assert bars_of(axis) == {
    "all runs": (
      near(0, 0.1, 0.2),
      near(30, 20, 10),
      pytest.approx([width] * 3, rel=1e-4),
    )
  }
  assert [tick.get_text() for tick in axis.get_xticklabels()] == [
    *("0", "0.1", "0.2")
  ]
  assert legend(figure)[0] == "Mean and 95% interval over seeds"
  assert "error_against_m.png" not in figures


def test_lines_against_m_differ_in_the_other_fields(tmp_path, draw):
  for rho in (0.0, 0.1):
    for m in (16, 64):
      # Notes of a run do not break a line.
      write_run(
        tmp_path / f"{rho}{m}",
        [rho + m / 1e3],
        sam__m=m,
        sam__rho=rho,
        notes=f"{m}",
      )
  figures = draw()
  figure = figures["error_against_m.png"]
  lines = {label: xy[:2] for label, xy in bars_of(figure.axes[0]).items()}
  assert lines == {
    "rho 0 (no SAM)": (near(16, 64), near(1.6, 6.4)),
    "rho 0.1": (near(16, 64), near(11.6, 16.4)),
  }
  assert legend(figure) == ("", ["rho 0 (no SAM)", "rho 0.1"])
  assert "error_against_rho.png" not in figures  # lines of two points


@pytest.fixture
def noisy_runs(tmp_path):
  """Write finished runs of table 4, Mixup's with two alphas."""
  for noise in ("noise20", "noise80"):
    for words in ("sam", "sgd", "mixup", "sam,bootstrap", "mixup,bootstrap"):
      for alpha in (8.0, 32.0) if "mixup" in words else (0.0,):
        config = paper_config(f"{noise},{words}", "noisy_labels")
        error = float(find_cell(to_dict(config)).error) / 100 + alpha / 1e4
        path = tmp_path / f"{noise},{words},{alpha}"
        write_run(path, [error], config, augment__mixup_alpha=alpha)


def test_a_line_against_label_noise_is_a_method(noisy_runs, draw):
  figures = draw()
  figure = figures["error_against_noise.png"]
  (axis,) = figure.axes
  lines = {label: xy[:2] for label, xy in bars_of(axis).items()}
  # Of Mixup's two alphas, the better one has the paper's number.
  assert lines == {
    "SAM": (near(0.2, 0.8), near(4.9, 22.1)),
    "SGD": (near(0.2, 0.8), near(15.2, 73.8)),
    "Mixup": (near(0.2, 0.8), near(7.08, 29.88)),
    "Bootstrap + SAM": (near(0.2, 0.8), near(4.6, 20.1)),
    "Bootstrap + Mixup": (near(0.2, 0.8), near(6.78, 28.08)),
  }
  assert set(legend(figure)[1]) == set(lines)
  assert figure.get_suptitle() == ""
  ticks = [tick.get_text() for tick in axis.get_xticklabels()]
  assert ticks == ["20", "80"]


def test_error_reduction_of_several_data_sets(noisy_runs, tmp_path, draw):
  write_run(tmp_path / "sam", [0.03])
  write_run(tmp_path / "sgd", [0.04], sam__rho=0.0)
  figure = draw()["error_reduction.png"]
  (axis,) = figure.axes
  zero = axis.lines[-1]
  assert list(zero.get_ydata()) == [0, 0]
  dots = {line.get_label(): list(line.get_ydata()) for line in axis.lines[:-1]}
  assert dots == {
    "resnet32": near(
      *(100 * (1 - sam / mixup) for sam, mixup in ((4.9, 7.08), (22.1, 29.88)))
    ),
    "wrn28_10": near(25),
  }
  ticks = [tick.get_text() for tick in axis.get_xticklabels()]
  assert sorted(ticks) == [
    "cifar10",
    "cifar10\n20% noise",
    "cifar10\n80% noise",
  ]
  title, labels = legend(figure)
  assert title == (
    "A dot: with SAM and without, all else being equal\n"
    "The baseline under label noise: Mixup"
  )
  assert set(labels) == {"resnet32", "wrn28_10"}


def test_a_single_pair_makes_no_figure_of_reductions(tmp_path, draw):
  write_run(tmp_path / "sam", [0.03])
  write_run(tmp_path / "sgd", [0.04], sam__rho=0.0)
  assert list(draw()) == ["learning_curves.png"]


def test_many_lines_are_split_into_files(tmp_path, draw):
  for i in range(8):
    write_run(tmp_path / str(i), [i / 10], model__name=f"m{i}")
  figures = draw()
  assert {name: legend(figure)[1] for name, figure in figures.items()} == {
    "learning_curves_1.png": [f"model m{i}" for i in range(6)],
    "learning_curves_2.png": ["model m6", "model m7"],
  }
  parts = list(split_by_styles(range(6), pathlib.Path("a.png")))
  assert parts == [(range(6), pathlib.Path("a.png"))]
