"""Analyses of runs: results, pictures, resumption, and errors."""

import dataclasses
import functools
import importlib.util
import io
import json
import math
import os
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from sam_jax import masks
from sam_jax.analysis import (
  compare,
  features,
  hessian,
  measure,
  trained_run,
)
from sam_jax.analysis.sharpness import Sharpness
from sam_jax.config.schema import default_config
from sam_jax.datasets import catalog
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.runs import files, workdir
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.training import build
from sam_jax.training.step import create_state
from tests.figures import legend_title, lines_of, record_figures
from tests.in_process import run_script

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
  """Write the files of a run that an analysis reads."""
  config = default_config()
  config.batch_size, config.seed = 16, seed
  config.model.name = "tests.tiny:ConvNet"
  path.mkdir()
  files.write_json(path / "config.json", workdir.to_dict(config))
  checkpoints = Checkpoints(path / "checkpoints")
  parts = build.parts(config, SPEC, 1, 8)
  checkpoints.save(create_state(parts, SPEC.image_shape, seed))
  checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  root = tmp_path_factory.mktemp("runs")
  for seed, name in enumerate(("first", "second")):
    save_run(root / name, seed)
  return root


@pytest.fixture(scope="module")
def load_run():
  """Loads each run only once: that is slow."""
  return functools.cache(trained_run.load_run)


@pytest.fixture
def figures(monkeypatch):
  return record_figures(monkeypatch)


@pytest.fixture
def analyze(load_run, figures, monkeypatch):
  monkeypatch.setattr(trained_run, "create_dataset", toy_dataset)
  monkeypatch.setattr(build, "dataset_spec", lambda *_: SPEC)
  monkeypatch.setattr(compare, "load_run", load_run)
  return lambda *arguments: run_script("analyze", *map(str, arguments))


def both(root):
  return [f"--workdir={root / name}" for name in ("first", "second")]


def results(path):
  """Return the keys and the results of a cache, in their order."""
  entries = json.loads(path.read_text())["results"]
  return [(entry["key"], entry["result"]) for entry in entries]


def check_picture(root, name, run="first"):
  """It is in the directory of the runs, and the same in TensorBoard."""
  events = event_accumulator.EventAccumulator(str(root / run / "analysis"))
  events.Reload()
  shown = events.Images(name)[-1]
  assert shown.step == STEP
  pixels = Image.open(io.BytesIO(shown.encoded_image_string))
  picture = Image.open(root / f"{name}.png").convert("RGB")
  np.testing.assert_array_equal(np.array(pixels), np.array(picture))


def test_hessian_resumes_where_it_stopped(
  saved, analyze, figures, capsys, monkeypatch
):
  run = f"--workdir={saved / 'first'}"
  arguments = ("hessian", run, *SMALL, "--steps=3")
  analyze(*arguments, "--probes=1")
  printed = capsys.readouterr().out
  check_picture(saved, "hessian")
  ((_, before),) = results(saved / "first/analysis/hessian.json")
  memory = before["device_bytes"] / 2**20
  text = rf"first: probe 0: \d+\.\d s, memory {memory:.1f} MiB on each"
  assert re.search(text, printed)
  values = before["ritz_values"]
  first, *_ = re.findall(r"largest eigenvalues (\S+) \(", printed)
  assert float(first) == pytest.approx(values[0], rel=1e-3)
  analyze(*arguments, "--probes=2")  # one more than before
  (_, old), (_, new) = results(saved / "first/analysis/hessian.json")
  assert old == before
  assert old["ritz_values"] != new["ritz_values"]
  (axis,) = figures["hessian.png"].axes
  lines = lines_of(axis)
  probes = [
    hessian.Probe(
      np.array(fields["ritz_values"]),
      np.array(fields["weights"]),
      np.array(fields["residuals"]),
      fields["seconds"],
      fields["host_bytes"],
    )
    for fields in (old, new)
  ]
  density = hessian.spectral_density(probes)
  np.testing.assert_allclose(lines["density"], density)
  largest = np.maximum(old["ritz_values"], new["ritz_values"])
  assert lines["five largest eigenvalues"][0] == list(largest)
  assert legend_title(figures["hessian.png"]) == (
    "Losses of 12 training examples, in evaluation mode;"
    " 2 probes of 3 Lanczos steps"
  )
  monkeypatch.setattr(hessian, "probe_hessian", None)
  capsys.readouterr()
  analyze(*arguments, "--probes=1")  # nothing is left to do
  assert capsys.readouterr().out == printed
  with pytest.raises(TypeError):  # the cached ones are of another seed
    analyze(*arguments, "--probes=1", "--seed=1")


def test_sharpness_of_every_rho_and_m(saved, analyze, figures, capsys):
  run = f"--workdir={saved / 'second'}"
  analyze("sharpness", run, *SMALL, "--rho=0.1,1", "--m=4")
  check_picture(saved, "sharpness", "second")
  found = {
    (key["sharpness"], key["rho"]): result
    for key, result in results(saved / "second/analysis/sharpness.json")
  }
  assert found["m = 4", 1.0] > found["all", 1.0] > found["all", 0.1] > 0
  assert found["m = 4", 0.1] > found["all", 0.1]
  printed = capsys.readouterr().out
  (axis,) = figures["sharpness.png"].axes
  assert axis.get_title() == "second"
  lines = lines_of(axis)
  assert lines.keys() == {"m = 4", "all"}
  for name, (rhos, values) in lines.items():
    assert rhos == [0.1, 1]
    assert values == [found[name, rho] for rho in rhos]
    low, high = values
    assert (
      f"second: sharpness, {name}: {low:.4g} (rho 0.1)  {high:.4g} (rho 1)\n"
    ) in printed


def test_sharpness_of_other_balls_that_is_not_finite(
  saved, analyze, figures, capsys, monkeypatch
):
  """The ball is part of the key, and no result is computed twice."""
  measured = []

  def divergence(*_, **ball):
    def diverge(*_):
      measured.append(ball)
      return Sharpness(1.0, math.inf)

    return diverge

  for name in ("sharpness_fn", "m_sharpness_fn"):
    monkeypatch.setattr(measure, name, divergence)
  run = f"--workdir={saved / 'second'}"
  balls = {
    "p = inf, adaptive": ["--p=inf", "--adaptive"],
    "p = inf, 2 ascent steps": ["--p=inf", "--ascent_steps=2"],
  }
  for note, ball in [*balls.items(), *balls.items()]:
    analyze("sharpness", run, *SMALL, "--rho=0.1", "--m=4", *ball)
    printed = capsys.readouterr().out
    for line in ("m = 4", "all"):
      assert f"second: sharpness, {line}: not finite (rho 0.1)" in printed
    assert f"mode, {note};" in legend_title(figures["sharpness.png"])
  steep = {"p": math.inf, "adaptive": masks.weights, "ascent_steps": 1}
  long = {"p": math.inf, "adaptive": False, "ascent_steps": 2}
  assert measured == [steep, steep, long, long]


def test_landscapes_meet_at_the_run(saved, analyze, figures):
  kinds = ("random", "sam", "plane", "between")
  along = [f"--along={kind}" for kind in kinds]
  logs = saved / "first/analysis"
  before = len(list(logs.glob("events*")))
  others = set((saved / "second").rglob("events*"))
  analyze("landscape", *both(saved), *SMALL, "--rho=0.1", *along)
  assert len(list(logs.glob("events*"))) == before + 1  # of all pictures
  assert set((saved / "second").rglob("events*")) == others
  for kind in kinds:
    check_picture(saved, f"landscape_{kind}")
  losses = [
    [result for _, result in results(saved / name / "analysis/landscape.json")]
    for name in ("first", "second")
  ]
  random, sam, plane, between = np.split(np.array(losses[0]), [3, 6, 15])
  loss = random[1]
  assert loss == pytest.approx(sam[1]) == pytest.approx(plane[4])
  assert loss == pytest.approx(between[0])
  assert sam[2] > loss > sam[0]
  assert plane[3:6] == pytest.approx(random)
  assert between[-1] == pytest.approx(losses[1][1])
  expected = {
    "random": {"first": [-1, 0, 1], "second": [-1, 0, 1]},
    "sam": {"first": [-0.1, 0, 0.1], "second": [-0.1, 0, 0.1]},
    "between": {"_child0": [0, 0.5, 1]},  # the only line has no label
  }
  drawn = {
    "random": [losses[0][:3], losses[1][:3]],
    "sam": [losses[0][3:6], losses[1][3:6]],
    "between": [losses[0][15:]],
  }
  for kind, lines in expected.items():
    (axis,) = figures[f"landscape_{kind}.png"].axes
    found = lines_of(axis)
    assert found.keys() == lines.keys()
    for (x, y), distances, values in zip(
      found.values(), lines.values(), drawn[kind], strict=True
    ):
      assert x == pytest.approx(distances)
      assert y == values
  assert axis.get_xlabel() == "Part of the way from first (0) to second (1)"


def test_measures_are_ranked_by_the_test_errors(
  saved, analyze, figures, capsys
):
  chosen = ("rank", "noise", "worst:m=4,steps=2", "average:draws=2")
  flags = [f"--measure={text}" for text in chosen]
  analyze("measures", *both(saved), *SMALL, *flags)
  printed = capsys.readouterr().out
  check_picture(saved, "measures")
  file = json.loads((saved / "measures.json").read_text())
  assert list(file["test_errors"]) == ["first", "second"]
  for name, error in file["test_errors"].items():
    assert re.search(rf"\| {name} +\| +{100 * error:.2f} \|", printed)
  assert [each["measure"] for each in file["measures"]] == list(chosen)
  for panel, each in zip(
    figures["measures.png"].axes, file["measures"], strict=False
  ):
    values = [value for value, _ in each["values"].values()]
    errors = [100 * error for error in file["test_errors"].values()]
    assert lines_of(panel) == {
      label: ([value], [error])
      for label, value, error in zip(
        file["test_errors"], values, errors, strict=True
      )
    }
    tau = np.sign(np.diff(values) * np.diff(errors)).item()
    assert each["rank_correlation"]["tau"] == (tau or None)  # None of a tie
    assert each["rank_correlation"]["low"] is None
    assert re.search(rf"\| +{re.escape(f'{values[0]:.4g}')} ", printed)
  analyze("measures", *both(saved), *SMALL, *flags)  # from the cache
  assert capsys.readouterr().out == printed


def test_connectivity_measures_batch_statistics_on_the_way(
  saved, analyze, load_run, figures, capsys
):
  """One batch has all examples: its statistics are those of train mode."""
  curves = ("--curve=line", "--curve=bezier", "--curve_steps=2")
  analyze("connectivity", *both(saved), *SMALL, *curves)
  printed = capsys.readouterr().out
  check_picture(saved, "connectivity")
  found = results(saved / "first/analysis/connectivity.json")
  assert [(key["path"], key["at"]) for key, _ in found] == [
    (curve, at) for curve in ("line", "bezier") for at in (0, 0.5, 1)
  ]
  line, bezier = np.array([result for _, result in found]).reshape(2, 3, 2)
  np.testing.assert_allclose(bezier[[0, -1]], line[[0, -1]], rtol=1e-4)
  assert bezier[1, 0] != line[1, 0]
  runs = [load_run(saved / name, None) for name in ("first", "second")]
  settings = dataclasses.replace(
    runs[0].model.settings, batch_norm_axis=None, batch_norm_groups=None
  )
  examples = runs[0].examples("train", 12)
  model = runs[0].model.clone(settings=settings)

  @jax.jit
  def forward(at, *ends):
    logits, _ = model.apply(
      jax.tree.map(lambda a, b: (1 - at) * a + at * b, *ends),
      runs[0].preprocess(examples["image"]),
      train=True,
      rngs={"dropout": jax.random.key(0)},
      mutable=["batch_stats"],
    )
    return logits

  for at, (loss, error) in zip((0, 0.5, 1), line, strict=True):
    logits = forward(at, *(jax.device_get(run.variables) for run in runs))
    logits = np.asarray(logits, np.float64)
    chosen = logits[np.arange(12), examples["label"]]
    nll = np.log(np.exp(logits).sum(axis=1)) - chosen
    assert loss == pytest.approx(nll.mean(), rel=1e-3)
    assert error == pytest.approx(np.mean(chosen < logits.max(axis=1)))
  losses = line[:, 0]
  barrier = max(0, losses[1] - (losses[0] + losses[2]) / 2)
  assert f"first to second: line: barrier {barrier:.4g} in loss" in printed
  left, right = figures["connectivity.png"].axes
  assert legend_title(figures["connectivity.png"]).startswith(
    "From first (0) to second (1)\nLosses of 12 training examples"
  )
  assert lines_of(left)["bezier"] == ([0, 0.5, 1], list(bezier[:, 0]))
  assert lines_of(right)["line"][1] == pytest.approx(100 * line[:, 1])


def test_a_measure_that_diverges_has_no_value(
  saved, analyze, capsys, monkeypatch
):
  monkeypatch.setattr(features, "feature_rank", lambda *_: math.nan)
  run = f"--workdir={saved / 'first'}"
  analyze("measures", run, *SMALL, "--measure=rank:variance=0.5")
  assert "not finite" in capsys.readouterr().out
  (each,) = json.loads((saved / "measures.json").read_text())["measures"]
  assert each["values"] == {"first": [None, None]}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "is no sub-command. Known: sharpness, hessian, landscape"),
    (["connectivity", "--workdir={run}"], "needs two runs"),
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
    (["hessian", "--workdir={run}", "--probe=9"], "--probe"),
    (["measures", "--workdir={run}", "--measure=rnk"], "mean 'rank'?"),
    (["measures", "--workdir={run}", "--measure=worst:m=999"], "not 16."),
    (["sharpness", "--workdir={run}", "--m=1000"], "m = 1000 makes no group"),
    (["sharpness", "--workdir={run}", "--rho=a"], "--rho=a must be numbers"),
    (["landscape", "--workdir={run}", "--reach=inf"], "--reach=inf must be"),
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


def test_pictures_need_an_extra(analyze, capsys, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *args: None if name == "matplotlib" else find(name, *args),
  )
  with pytest.raises(SystemExit) as refused:
    analyze("sharpness", "--workdir=/no/run")
  assert refused.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith("need matplotlib: pip install 'sam-jax[analysis]'.")


def test_interrupt_ends_with_130(saved, analyze, capsys, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  def leave(code):
    raise SystemExit(code)

  monkeypatch.setattr(measure, "measure_sharpness", interrupt)
  monkeypatch.setattr(os, "_exit", leave)
  with pytest.raises(SystemExit) as error:
    analyze("sharpness", f"--workdir={saved / 'first'}", *SMALL)
  assert error.value.code == 130
  assert "The same command resumes" in capsys.readouterr().err


def test_all_runs_are_checked_before_one_is_loaded(
  saved, analyze, capsys, monkeypatch
):
  monkeypatch.setattr(compare, "load_run", lambda *_: pytest.fail("It loads."))
  with pytest.raises(SystemExit) as error:
    analyze("measures", f"--workdir={saved / 'first'}", "--workdir=/no/run")
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: --workdir=/no/run holds no run")


def test_runs_of_different_data_are_not_compared():
  configs = [default_config(), default_config()]
  configs[1].dataset.name = "svhn"
  with pytest.raises(ValueError, match="a was trained on cifar10 and b on svh"):
    compare.check_data_sets(configs, ["a", "b"])
  compare.check_data_sets(configs[:1], ["a"])


def test_runs_of_different_labels_are_compared_with_a_warning(caplog):
  def measured_run(label, value):
    return SimpleNamespace(label=label, examples={"label": np.array([value])})

  compare.warn_of_other_examples([measured_run("a", 1), measured_run("b", 1)])
  assert not caplog.text
  compare.warn_of_other_examples([measured_run("a", 1), measured_run("b", 2)])
  assert "b: not the same examples and labels as a" in caplog.text
