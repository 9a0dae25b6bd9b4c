"""Measurements of a run: their progress on a terminal, and elsewhere."""

import io
import sys
import types

import numpy as np
import pytest

from sam_jax.analysis.measure import MeasuredRun
from sam_jax.analysis.result_cache import ResultCache


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def run(tmp_path):
  trained = types.SimpleNamespace(step=7, variables={"params": np.ones(3)})
  examples = {"label": np.zeros(5, np.int32)}
  cache = ResultCache(tmp_path / "results.json")
  return MeasuredRun("sgd", trained, "train", examples, 5, cache)


def square(key, advance):
  advance(3)  # of 4 steps: the last one needs no report
  return key["at"] ** 2


def measure(run, *points):
  keys = [{"at": at} for at in points]
  return run.results("a line", keys, square, steps=4)


def test_terminal_shows_steps_and_cached_ones_at_once(run, monkeypatch):
  monkeypatch.setattr(sys, "stderr", Terminal())
  assert measure(run, 1, 2) == [1, 4]
  shown = sys.stderr.getvalue()
  assert "sgd: a line:   0%|" in shown
  assert "| 0/8 [" in shown
  assert "| 8/8 [" in shown
  monkeypatch.setattr(sys, "stderr", Terminal())
  assert measure(run, 3, 1, 2) == [9, 1, 4]
  shown = sys.stderr.getvalue()
  assert "| 0/12 [" not in shown
  assert "| 8/12 [" in shown
  assert "| 12/12 [" in shown


def test_log_files_have_no_bar(run, capsys):
  assert measure(run, 1, 2) == [1, 4]
  assert capsys.readouterr() == ("", "")
