"""Pictures of measurements, by the data of their lines and surfaces."""

import numpy as np
import pytest
from mpl_toolkits.mplot3d import Axes3D

from sam_jax.analysis import hessian, plots
from tests.figures import legend_title, lines_of, record_figures

SIZE = 36_000_000  # parameters of a large network


@pytest.fixture
def figures(monkeypatch):
  return record_figures(monkeypatch)


def probe(*values):
  """Return a probe whose first values have the weight of one eigenvalue."""
  weights = np.full(len(values), 1 / SIZE)
  weights[-1] += 1 - weights.sum()
  return hessian.Probe(
    ritz_values=np.array(values),
    weights=weights,
    residuals=np.zeros(len(values)),
    seconds=0.0,
    host_bytes=4 * SIZE * len(values),
  )


def test_sharpness_is_a_line_for_each_m(figures, tmp_path):
  runs = {
    "sgd": {"m = 1": [0.1, 0.4], "all": [0.02, 0.09]},
    "sam": {"m = 1": [0.05, 0.2], "all": [0.01, np.nan]},
  }
  plots.plot_sharpness(runs, [0.1, 0.2], "A note", tmp_path / "a.png")
  figure = figures["a.png"]
  assert legend_title(figure) == "A note; m of them share a perturbation"
  for axis, (label, series) in zip(figure.axes, runs.items(), strict=True):
    assert axis.get_title() == label
    assert axis.get_xscale() == axis.get_yscale() == "log"
    lines = lines_of(axis)
    assert lines.keys() == series.keys()
    for name, values in series.items():
      np.testing.assert_array_equal(lines[name], [[0.1, 0.2], values])
    assert [t.get_text() for t in axis.get_xticklabels()] == ["0.1", "0.2"]


def test_sharpness_without_an_increase_has_no_logarithm(figures, tmp_path):
  runs = {"flat": {"all": [-0.1, 0.0]}}
  plots.plot_sharpness(runs, [0.1, 0.2], "", tmp_path / "a.png")
  (axis,) = figures["a.png"].axes
  assert axis.get_yscale() == "linear"
  assert lines_of(axis)["all"] == ([0.1, 0.2], [-0.1, 0.0])


def test_spectra_have_one_width_and_one_floor(figures, tmp_path):
  runs = {"wide": [probe(60, 5, 4, 3, 2, 0)], "narrow": [probe(1, 0)]}
  plots.plot_spectra(runs, "A note", tmp_path / "a.png")
  figure = figures["a.png"]
  assert legend_title(figure) == "A note; 1 probe of 6 Lanczos steps"
  wide, narrow = figure.axes
  assert wide.get_title() == ("wide\nlargest eigenvalue 60, 30 times the fifth")
  assert narrow.get_title() == "narrow\nlargest eigenvalue 1"
  width = hessian.default_width(runs["wide"])
  for axis, probes in zip(figure.axes, runs.values(), strict=True):
    lines = lines_of(axis)
    density = hessian.spectral_density(probes, width)
    np.testing.assert_array_equal(lines["density"], density)
    largest, _ = lines["five largest eigenvalues"]
    assert largest == list(probes[0].ritz_values[:5])
  floor = plots.density_floor(runs["wide"], width)
  assert wide.get_ylim()[0] == narrow.get_ylim()[0] == floor


def test_spectra_of_large_networks_show_single_eigenvalues():
  probes = [probe(60.0, 0.0)]
  width = hessian.default_width(probes)
  grid, density = hessian.spectral_density(probes, width)
  peak = density[np.abs(grid - 60).argmin()]
  # A probe sees a chi-squared share of it, which can be much less.
  assert plots.density_floor(probes, width) < 0.1 * peak


def test_lines_of_several_runs_have_labels(figures, tmp_path):
  runs = {"sgd": np.array([3.0, 1.0, np.nan]), "sam": np.array([2.0, 1.0, 2.0])}
  plots.plot_lines(runs, [-1, 0, 1], "Distance", "A note", tmp_path / "a.png")
  figure = figures["a.png"]
  (axis,) = figure.axes
  assert (axis.get_xlabel(), axis.get_ylabel()) == ("Distance", "Loss (nats)")
  assert legend_title(figure) == "A note"
  lines = lines_of(axis)
  assert lines.keys() == runs.keys()
  for label, losses in runs.items():
    np.testing.assert_array_equal(lines[label], [[-1, 0, 1], losses])
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["sgd", "sam"]


def test_planes_are_surfaces_above_their_contours(
  figures, tmp_path, monkeypatch
):
  """The loss 3 + 2 x + y is exact between points: contours are its lines."""
  surfaces, plot_surface = [], Axes3D.plot_surface

  def record(axis, *data, **kwargs):
    surfaces.append((axis.get_subplotspec().colspan.start, data))
    return plot_surface(axis, *data, **kwargs)

  monkeypatch.setattr(Axes3D, "plot_surface", record)
  distances = [-0.5, 0.0, 0.5]
  x, y = np.meshgrid(distances, distances)
  runs = {"sgd": 3 + 2 * x + y, "sam": 3 + x + 2 * y}
  plots.plot_planes(runs, distances, "A note", tmp_path / "a.png")
  figure = figures["a.png"]
  assert figure.get_suptitle() == "A note"
  tops = [a for a in figure.axes if isinstance(a, Axes3D)]
  assert [axis.get_title() for axis in tops] == ["sgd", "sam"]
  assert [column for column, _ in surfaces] == [0, 1]
  slopes = {"sgd": (2, 1), "sam": (1, 2)}
  flat = [a for a in figure.axes if a.get_aspect() == 1]
  for (label, losses), axis, (_, surface) in zip(
    runs.items(), flat, surfaces, strict=True
  ):
    np.testing.assert_allclose(surface, [x, y, np.log10(losses)])
    contours = axis.collections[1]
    assert len(contours.levels) >= 1
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
      assert path.vertices.size
      at = 3 + path.vertices @ slopes[label]
      np.testing.assert_allclose(at, level, rtol=1e-6)


def test_planes_without_a_finite_loss(tmp_path):
  with pytest.raises(ValueError, match="try a smaller --reach"):
    plots.plot_planes(
      {"a": np.full((2, 2), np.nan)}, [-1, 1], "", tmp_path / "a.png"
    )
