"""docs/notebooks: each cell prints what is stored under it."""

import functools
import itertools
import json
import re

import matplotlib
import pytest

from tests.processes import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs/notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"\d+\.\d+")


def stored_text(cell):
  return "".join("".join(o.get("text", "")) for o in cell["outputs"])


@functools.cache
def definitions(*sources):
  """Run the cells that define; notebooks that start alike train once."""
  namespace = {"__name__": "__main__"}
  for source in sources:
    exec(source, namespace)
  namespace["train"] = functools.cache(namespace["train"])
  return namespace


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_print_what_is_stored(path, capsys):
  matplotlib.use("Agg")
  cells = [
    cell
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
  ]
  silent = list(itertools.takewhile(lambda cell: not cell["outputs"], cells))
  namespace = dict(definitions(*("".join(cell["source"]) for cell in silent)))
  assert not capsys.readouterr().out
  pictures = 0
  for cell in cells[len(silent) :]:
    exec("".join(cell["source"]), namespace)
    printed, stored = capsys.readouterr().out, stored_text(cell)
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", stored)
    found, expected = (
      [float(number) for number in NUMBER.findall(text)]
      for text in (printed, stored)
    )
    # Training amplifies the rounding of another machine or version.
    assert found == pytest.approx(expected, rel=0.3, abs=0.3)
    pictures += any("image/png" in o.get("data", {}) for o in cell["outputs"])
  assert pictures == 1


def test_notebooks_show_that_sam_finds_the_better_minimum():
  text = {
    path.stem: "".join(
      stored_text(cell)
      for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
      if cell["cell_type"] == "code"
    )
    for path in NOTEBOOKS
  }
  errors = re.findall(r"test error ([\d.]+)", text["sam_in_30_lines"])
  sgd, sam = map(float, errors)
  assert sam < sgd / 2
  minima = text["sharpness_of_two_minima"]
  sgd, sam = map(float, re.findall(r"eigenvalue ([\d.]+)", minima))
  assert sam < sgd / 2
  (*_, last) = re.findall(r"SGD ([\d.]+), SAM ([\d.]+)", minima)
  assert float(last[1]) < float(last[0]) / 2
