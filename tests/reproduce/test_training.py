"""Studies train through the training loop of sam_jax, and resume."""

import json

import numpy as np
import pytest
from etils import epath

from sam_jax.analysis import trained_run
from sam_jax.config.schema import validate_config
from sam_jax.datasets.labels import read_labels
from sam_jax.runs import preemption
from scripts.reproduce import measurements, results
from scripts.reproduce.levels import LEVELS
from scripts.reproduce.runs import Measurement, Runs
from scripts.reproduce.studies import STUDIES
from scripts.reproduce.training import Laboratory, StoppedError, config_of
from tests.reproduce.small_level import SMALL


def train(laboratory):
  """Train the comparison until it is complete; return its runs and rows."""
  while True:
    runs = Runs(SMALL, laboratory.find)
    sections = results.ask_all(runs, {"comparison": STUDIES["comparison"]})
    if not runs.wanted:
      return runs, sections["comparison"].rows
    laboratory.do(runs.wanted.values(), lambda line: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  laboratory = Laboratory(SMALL, epath.Path(tmp_path_factory.mktemp("runs")))
  return laboratory, *train(laboratory)


def test_every_run_is_one_of_the_training_loop(trained):
  laboratory, runs, rows = trained
  assert [row[0] for row in rows] == [
    "SGD, 1 epoch",
    "SGD, 2 epochs",
    "SAM, 1 epoch",
  ]
  for run in runs.asked.values():
    workdir = laboratory.workdir(run)
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints"} <= names
    result = json.loads((workdir / "result.json").read_text())
    assert laboratory.find(run)["error_rate"] == result["error_rate"]
    assert laboratory.find(run)["cpu_seconds"] > 0


def test_a_stopped_level_resumes_where_it_was(trained, tmp_path, monkeypatch):
  _, _, expected = trained
  laboratory = Laboratory(SMALL, epath.Path(tmp_path))
  calls = []

  def is_due(_):
    calls.extend(tmp_path.glob("*/result.json"))
    return len(calls) > 4  # a few steps into the second group

  with monkeypatch.context() as patch:
    patch.setattr(preemption.StopRequest, "is_due", is_due)
    with pytest.raises(StoppedError):
      train(laboratory)
  finished = list(tmp_path.glob("*/result.json"))
  begun = list(tmp_path.glob("*/checkpoints"))
  assert 0 < len(finished) < len(begun)
  times = {path: path.stat().st_mtime_ns for path in finished}
  _, rows = train(laboratory)
  assert rows == expected
  assert {path: path.stat().st_mtime_ns for path in finished} == times


def test_bootstrap_trains_on_the_labels_that_a_run_predicts(trained):
  laboratory, runs, _ = trained
  source = runs.sam().runs[0]
  fields = {"dataset.label_file": "predicted", "sam.rho": 0.0}
  run = runs.make(fields, seed=0, source=source)
  laboratory.do([run], lambda line: None)
  file = laboratory.config(run).dataset.label_file
  labels = read_labels(file, num_examples=240, num_classes=10)
  of_source = trained_run.load_run(laboratory.workdir(source))
  np.testing.assert_array_equal(labels, trained_run.predicted_labels(of_source))
  assert laboratory.find(run)["error_rate"] < 1


def test_measurements_are_those_of_the_analyses(trained, monkeypatch):
  laboratory, runs, _ = trained
  monkeypatch.setattr(measurements, "MS", (1, 16, 240))
  run = runs.sgd().runs[0]
  jobs = [Measurement(kind, run) for kind in ("curvature", "m_sharpness")]
  assert [laboratory.find(job) for job in jobs] == [None, None]
  laboratory.do(jobs, lambda line: None)
  eigenvalues, sharpness = map(laboratory.find, jobs)
  found = eigenvalues["eigenvalues"]
  assert len(found) == 5 and found == sorted(found, reverse=True)
  # Groups have perturbations of their own: the fewer examples, the sharper.
  assert sharpness["1"] > sharpness["16"] > sharpness["240"] > 0


@pytest.mark.parametrize("name", LEVELS)
def test_configs_of_all_runs_are_valid(name, tmp_path):
  level = LEVELS[name]
  runs = Runs(level, lambda job: None, planning=True)
  results.ask_all(runs, {s: STUDIES[s] for s in level.studies})
  configs = {}
  for job in runs.wanted.values():
    run = getattr(job, "run", job)
    changed = {
      k: v for k, v in run.fields if "seed" not in k and "part" not in k
    }
    if "dataset.data_dir" not in changed:
      configs[str(changed)] = config_of(level, run, epath.Path(tmp_path))
  assert configs
  for config in configs.values():
    validate_config(config, num_devices=level.devices or 1)
