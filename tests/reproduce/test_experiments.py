"""Experiments on made-up results, and the document that they make up."""

import numpy as np
import pytest

from sam_jax.analysis.result_cache import ResultCache
from scripts.reproduce import plots
from scripts.reproduce.claims import RULE
from scripts.reproduce.document import write_document
from scripts.reproduce.experiments import EXPERIMENTS
from tests.processes import REPOSITORY
from tests.reproduce.made_up import MadeUpNetworks


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  """The file of results, the networks, and all sections."""
  path = tmp_path_factory.mktemp("results") / "results.json"
  networks = MadeUpNetworks(ResultCache(path), 4, 1)
  sections = {name: run(networks) for name, run in EXPERIMENTS.items()}
  return path, networks, sections


def test_resumed_experiments_compare_what_fresh_ones_do(made_up):
  """Saved results are sorted by name: "512" comes before "64"."""
  path, _, fresh = made_up
  networks = MadeUpNetworks(ResultCache(path), 4, 1)
  for name in EXPERIMENTS:
    resumed = EXPERIMENTS[name](networks)
    assert resumed.rows == fresh[name].rows
    assert resumed.claims == fresh[name].claims
  claims = fresh["prediction"].claims
  whole = "Sharpness of the whole training set (m = 512) scores lower than"
  assert [c.statement.startswith(whole) for c in claims] == [0, 1, 1, 1, 1, 0]
  differences = [c.difference[0] for c in claims[1:]]
  assert differences == pytest.approx([4, 3, 2, 1, differences[-1]])
  assert differences[-1] > 0  # the slope over log2 m
  assert all(c.verdict == "contradicted" for c in claims[1:])


def cells(text):
  """Return the cells of all rows of Markdown tables."""
  lines = [line for line in text.splitlines() if line.startswith("|")]
  return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_every_experiment_is_in_the_document(made_up, tmp_path):
  _, networks, sections = made_up
  path, figures = tmp_path / "out/DOCUMENT.md", tmp_path / "out/figures"
  figures.mkdir(parents=True)
  write_document(path, figures, sections, networks)
  text = path.read_text()
  rows = cells(text)
  first = ["SAM's test error is lower than SGD's", "Tables 1 to 3"]
  assert [*first, "-5.00 ± 0.00 points", "**reproduced**"] in rows
  for letter, section in zip("abcdefghi", sections.values(), strict=True):
    assert f"## {letter}. {section.title}" in text
    assert section.claims
    assert all(list(row) in rows for row in section.rows)
  links = [line for line in text.splitlines() if line.startswith("![")]
  assert len(links) == len(list(figures.glob("*.png"))) == 5
  assert all("](figures/" in link for link in links)
  count = sum(len(section.claims) for section in sections.values())
  assert f"These are {count} verdicts" in text
  # Of lambda, the mean and the interval of the logarithm.
  values = np.log(1 + np.random.default_rng(0).random(4))
  assert f"| SGD    | {np.exp(values.mean()):.2g} (" in text
  (scored,) = (row for row in rows if row[0] == "m = 64" and len(row) == 6)
  assert scored[1].startswith("3.")
  assert scored[2:] == ["-0.50"] * 4


def test_figures_show_the_results(made_up, monkeypatch):
  _, networks, sections = made_up
  found = {}
  for name in vars(plots):
    if name.startswith("draw_"):
      monkeypatch.setattr(
        plots, name, lambda *arguments, n=name: found.update({n: arguments})
      )
  for name in ("label_noise", "radius", "curvature", "prediction"):
    sections[name].draw("path")
  lines, percents, _ = found["draw_against_noise"]
  sgd, sam = networks.sgd().test_of_best, networks.sam().test_of_best
  assert percents == [0, 20, 40, 60, 80]
  np.testing.assert_allclose(lines["SGD"], [100 * sgd] * 5)
  np.testing.assert_allclose(lines["SAM"], [100 * sam] * 5)
  lines, line, _ = found["draw_against_rho"]
  np.testing.assert_allclose(line, 100 * sgd)
  assert lines.keys() == {"SAM", "ASAM"}
  np.testing.assert_allclose(lines["SAM"][0.3], 100 * sam)
  panels, _ = found["draw_points"]
  np.testing.assert_allclose(panels["Largest over fifth eigenvalue"]["SAM"], 1)
  scores, _, _ = found["draw_scores"]
  assert list(scores) == [1, 4, 16, 64, 512]
  np.testing.assert_allclose(scores[64] - scores[16], 1)


def test_reproduction_md_has_the_words_of_the_code(made_up):
  _, _, sections = made_up
  text = (REPOSITORY / "REPRODUCTION.md").read_text()
  rows = cells(text)
  assert RULE in text
  for letter, section in zip("abcdefghi", sections.values(), strict=True):
    assert f"## {letter}. {section.title}\n" in text
    assert list(section.header) in rows
    assert f"*{section.caption}*" in text
    for claim in section.claims:
      assert [claim.statement, claim.source] in [row[:2] for row in rows]
