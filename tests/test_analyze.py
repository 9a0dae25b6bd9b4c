"""Analyses of runs: results, pictures, what is not done twice, and errors."""

import dataclasses
import functools
import importlib.util
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from sam_jax.analysis import measure as studies
from sam_jax.analysis import trained_run as runs
from sam_jax.analysis.sharpness import Sharpness
from sam_jax.config.schema import default_config
from sam_jax.datasets import catalog
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.runs import files, workdir
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.training.build import create_recipe
from sam_jax.training.step import create_state
from tests.processes import REPOSITORY

SPEC = dataclasses.replace(
  catalog.dataset_spec("cifar10"), image_shape=(8, 8, 3)
)
STEP = 0  # the runs were saved before they trained
SMALL = ("--num_examples=12", "--batch_size=16", "--points=3")


def toy_dataset(config):
  random = np.random.default_rng(0)
  images = random.integers(256, size=(16, 8, 8, 3)).astype(np.uint8)
  examples = images, random.integers(10, size=16).astype(np.int32)
  sizes = {"batch_size": 16, "eval_batch_size": 16}
  return InMemoryDataset(SPEC, examples, examples, seed=0, **sizes)


def save_run(path, seed):
  """Writes what an analysis reads of a run."""
  config = default_config()
  config.batch_size, config.model.name, config.seed = 16, "cnn4", seed
  path.mkdir()
  files.write_json(path / "config.json", workdir.to_dict(config))
  checkpoints = Checkpoints(path / "checkpoints")
  recipe = create_recipe(config, SPEC, 1, 8)
  checkpoints.save(create_state(recipe, SPEC.image_shape))
  checkpoints.close()


@pytest.fixture(scope="module")
def script():
  others = set(flags.FLAGS)
  path = REPOSITORY / "sam_jax/analyze.py"
  spec = importlib.util.spec_from_file_location("analyze", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  yield module
  for name in set(flags.FLAGS) - others:
    delattr(flags.FLAGS, name)  # other scripts have some of the same name


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  root = tmp_path_factory.mktemp("runs")
  for seed, name in enumerate(("first", "second")):
    save_run(root / name, seed)
  return root


@pytest.fixture(scope="module")
def load_run():
  """Loads each run only once, as it is slow."""
  return functools.cache(runs.load_run)


@pytest.fixture
def analyze(script, load_run, monkeypatch):
  monkeypatch.setattr(runs, "create_dataset", toy_dataset)
  monkeypatch.setattr(runs, "load_run", load_run)
  monkeypatch.setattr("sam_jax.runs.logging.show_on_stderr", lambda: None)

  def run(*arguments):
    argv = ["analyze", *map(str, arguments)]
    with flagsaver.flagsaver():
      script.main(script._parse_flags(argv))

  return run


def both(root):
  return [f"--workdir={root / name}" for name in ("first", "second")]


def pieces(path):
  return json.loads(path.read_text())["pieces"]


def check_picture(root, name, names=("first", "second")):
  """In the directory of the runs, and in TensorBoard."""
  assert np.ptp(np.array(Image.open(root / f"{name}.png"))) > 200
  for run in names:
    events = event_accumulator.EventAccumulator(str(root / run / "analysis"))
    events.Reload()
    assert events.Images(name)[-1].step == STEP


def test_hessian_goes_on_where_it_stopped(saved, analyze, capsys, monkeypatch):
  run = f"--workdir={saved / 'first'}"
  arguments = ("hessian", run, *SMALL, "--steps=3")
  analyze(*arguments, "--probes=1")
  said = capsys.readouterr().out
  assert said.count("largest eigenvalues") == 1
  check_picture(saved, "hessian", ["first"])
  before = pieces(saved / "first/analysis/hessian.json")
  assert len(before) == 1
  memory = before[0]["result"]["device_bytes"]
  text = rf"first: probe 0: \d+\.\d s, memory {memory / 2**20:.1f} MiB on each"
  assert re.search(text, said)
  analyze(*arguments, "--probes=2")  # one more, beside the old one
  after = pieces(saved / "first/analysis/hessian.json")
  assert after[0] == before[0]
  assert after[0]["result"]["ritz_values"] != after[1]["result"]["ritz_values"]
  monkeypatch.setattr(studies.hessian, "probe_hessian", None)
  capsys.readouterr()
  analyze(*arguments, "--probes=1")  # nothing is left to do
  assert capsys.readouterr().out == said
  with pytest.raises(TypeError):  # the others are of another seed
    analyze(*arguments, "--probes=1", "--seed=1")


def test_sharpness_of_every_rho_and_m(saved, analyze, capsys):
  run = f"--workdir={saved / 'second'}"
  analyze("sharpness", run, *SMALL, "--rho=0.1,1", "--m=4")
  check_picture(saved, "sharpness", ["second"])
  assert "second: sharpness, m = 4: " in capsys.readouterr().out
  found = {
    (p["of"]["sharpness"], p["of"]["rho"]): p["result"]
    for p in pieces(saved / "second/analysis/sharpness.json")
  }
  assert found["m = 4", 1.0] > found["all", 1.0] > found["all", 0.1] > 0
  assert found["m = 4", 0.1] > found["all", 0.1]


def test_sharpness_of_other_balls_and_what_is_not_finite(
  saved, analyze, capsys, monkeypatch
):
  """It is part of the pieces' key, and no result is computed twice."""
  measured = []

  def diverge(*_, **ball):
    measured.append(ball)
    return Sharpness(1.0, math.inf)

  monkeypatch.setattr(studies, "sharpness", diverge)
  monkeypatch.setattr(
    studies, "m_sharpness_fn", lambda *_, **ball: lambda *_: diverge(**ball)
  )
  run = f"--workdir={saved / 'second'}"
  balls = [["--p=inf", "--adaptive"], ["--p=inf", "--ascent_steps=2"]]
  for ball in balls + balls:
    analyze("sharpness", run, *SMALL, "--rho=0.1", "--m=4", *ball)
    said = capsys.readouterr().out
    for line in ("m = 4", "all"):
      assert f"second: sharpness, {line}: not finite (rho 0.1)" in said
  steep = {"p": math.inf, "adaptive": True, "ascent_steps": 1}
  long = {"p": math.inf, "adaptive": False, "ascent_steps": 2}
  assert measured == [steep, steep, long, long]


def test_landscapes_meet_at_the_run(saved, analyze):
  kinds = ("random", "sam", "plane", "between")
  along = [f"--along={kind}" for kind in kinds]
  logs = saved / "first/analysis"
  before = len(list(logs.glob("events*")))
  analyze("landscape", *both(saved), *SMALL, "--rho=0.1", *along)
  assert len(list(logs.glob("events*"))) == before + 1  # of all pictures
  for kind in kinds:
    check_picture(saved, f"landscape_{kind}")
  results = pieces(saved / "first/analysis/landscape.json")
  losses = [piece["result"] for piece in results]
  random, sam, plane, between = np.split(np.array(losses), [3, 6, 15])
  loss = random[1]
  assert loss == pytest.approx(sam[1]) == pytest.approx(plane[4])
  assert loss == pytest.approx(between[0])
  assert sam[2] > loss > sam[0]
  assert plane[3:6] == pytest.approx(random)
  other = pieces(saved / "second/analysis/landscape.json")
  assert between[-1] == pytest.approx(other[1]["result"])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "'' is no sub-command. Known: sharpness, hessian, landscape."),
    (["hesian"], "Did you mean 'hessian'?"),
    (["hessian", "sharpness"], "Unexpected arguments: sharpness"),
    (["hessian"], "--workdir is missing"),
    (["hessian", "--workdir=/no/run"], "/no/run holds no run"),
    (["hessian", "--workdir={run}@7"], "no checkpoint of step 7. Kept: 0."),
    (["hessian", "--workdir={run}", "--steps=0"], "steps"),
    (["hessian", "--workdir={run}@x"], "must be RUN@STEP with a number"),
    (["hessian", "--workdir={run}", "--workdir={run}/"], "is given twice"),
    (["sharpness", "--workdir={run}", "--p=0.5"], "--p"),
    (["hessian", "--workdir={run}", "--batch_size=9"], "as is 16."),
    (["hessian", "--workdir={run}", "--probe=9"], "flag 'probe'"),
    (["sharpness", "--workdir={run}", "--m=1000"], "m = 1000 makes no group"),
    (["sharpness", "--workdir={run}", "--rho=a"], "--rho=a must be numbers"),
    (["landscape", "--workdir={run}", "--points=1"], "points"),
    (["landscape", "--workdir={run}", "--along=between"], "needs two runs"),
    (["landscape", "--workdir={run}", "--output=/dev/null/a"], "be written"),
  ],
)
def test_mistakes_give_one_line(saved, analyze, capsys, arguments, message):
  with pytest.raises(SystemExit) as error:
    analyze(*(each.format(run=saved / "first") for each in arguments))
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line


def test_runs_of_different_data_are_not_compared(script, capsys):
  def subject(label, dataset):
    run = SimpleNamespace(config=default_config())
    run.config.dataset.name = dataset
    return SimpleNamespace(label=label, run=run, examples={})

  with pytest.raises(SystemExit):
    script.check_same_data([subject("a", "cifar10"), subject("b", "svhn")])
  assert "a learnt cifar10 and b svhn" in capsys.readouterr().err
