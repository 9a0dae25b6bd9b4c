"""Errors and costs of the methods: what is trained, and the table."""

import dataclasses
import itertools
import json

import pytest
from etils import epath

from sam_jax.runs import groups
from sam_jax.training import build, input_pipeline, together
from sam_jax.training.hooks import DivergedError
from scripts.benchmark import method_costs, methods
from scripts.benchmark.timing import Spread
from tests import tiny

SIZE = methods.Size(1, 2, 2, (0.1, 0.5), validation=16)


@pytest.fixture
def comparison(tmp_path, monkeypatch):
  """A comparison whose runs only write a result.

  The best is that of rho = 0.5 and of a learning rate of 0.03.
  """
  trained = []

  def train(runs):
    trained.append(runs)
    for config, workdir in runs:
      workdir.mkdir(parents=True)
      error = 0.2 + abs(config.sam.rho - 0.5) / 100
      error += abs(config.optimizer.learning_rate - 0.03)
      result = {"error_rate": error + config.seed % 10 / 100, "step": 1}
      (workdir / "result.json").write_text(json.dumps(result))
    return []

  monkeypatch.setattr(together, "train_and_evaluate", train)
  found = methods.Comparison("digits", "perceptron", SIZE, epath.Path(tmp_path))
  return found, trained


def test_choices_are_made_on_validation_images_and_tested_on_all(comparison):
  found, trained = comparison
  chosen = {name: found.choose(name, 0.4) for name in methods.METHODS}
  assert {c["optimizer.learning_rate"] for c in chosen.values()} == {0.03}
  rhos = {name: fields["sam.rho"] for name, fields in chosen.items()}
  # The radii of momentum_sam start at 0.4.
  assert rhos == {**dict.fromkeys(methods.METHODS, 0.5), "sgd": 0} | {
    "momentum_sam": 0.4
  }
  for config, _ in itertools.chain(*trained):
    assert config.dataset.validation_size == 16
    assert config.dataset.label_noise.rate == 0.4
  seeds = {config.seed for config, _ in itertools.chain(*trained)}
  errors = found.test("sam", 0.4, epochs=3, **chosen["sam"])
  assert errors == pytest.approx([20, 21])
  for config, _ in trained[-1]:
    assert (config.dataset.validation_size, config.num_epochs) == (0, 3)
    assert config.dataset.label_noise.rate == 0.4
    assert config.optimizer.learning_rate == 0.03
    assert config.seed not in seeds


@pytest.mark.parametrize(
  "rhos, added",
  [
    ((0.1, 0.5), [{2.5}]),
    ((0.5, 1.0), [{0.25}]),
    ((2.0, 4.0), [{1.0}, {0.5}, {0.25}]),
    ((0.1, 0.5, 1.0), []),
    ((8.0, 16.0), [{4.0}, {2.0}, {1.0}]),
  ],
)
def test_the_grid_grows_where_its_end_is_the_best(rhos, added, comparison):
  """The error is lowest at 0.5, and rises with the distance from it."""
  found, trained = comparison
  size = dataclasses.replace(SIZE, rhos=rhos)
  found = dataclasses.replace(found, size=size)
  _, best = found.tune("sam", 0.4, learning_rate=0.03)
  radii = [{config.sam.rho for config, _ in runs} for runs in trained]
  assert radii == [set(rhos), *added]
  assert best == min({*rhos}.union(*added), key=lambda rho: abs(rho - 0.5))


def test_a_run_that_diverges_is_wrong_about_all_images(comparison, monkeypatch):
  found, _ = comparison
  train = together.train_and_evaluate

  def diverge(runs):
    good = [run for run in runs if run[0].sam.rho < 1]
    return train(good) + [DivergedError("nan")] * (len(runs) - len(good))

  monkeypatch.setattr(together, "train_and_evaluate", diverge)
  fields = [{"sam.rho": rho} for rho in (0.5, 1.0)]
  assert found.errors("sam", 0.0, fields) == pytest.approx([0.27, 1.0])


def test_runs_that_stop_end_the_comparison(comparison, monkeypatch):
  found, _ = comparison
  monkeypatch.setattr(together, "train_and_evaluate", lambda runs: [])
  with pytest.raises(SystemExit, match="the same command resumes"):
    found.choose("sam", 0.0)


def test_runs_of_another_network_or_length_are_others(comparison):
  found, trained = comparison
  other = dataclasses.replace(found, model="cnn4")
  longer = dataclasses.replace(found, size=dataclasses.replace(SIZE, epochs=2))
  for each in (found, other, longer):
    each.errors("sam", 0.0, [{"sam.rho": 0.5}])
  assert len({workdir for runs in trained for _, workdir in runs}) == 3


def test_each_seed_trains_on_a_part_of_a_large_set(tmp_path):
  found = methods.Comparison(
    "fashion_mnist", "perceptron", SIZE, epath.Path(tmp_path)
  )
  configs = [found.config("sam", 0.4, seed=seed) for seed in (0, 1, 1000)]
  assert [c.dataset.parts for c in configs] == [42] * 3  # 60,000 / 42 = 1,428
  assert len({c.dataset.part for c in configs}) == 3


def test_finished_runs_are_not_trained_again(comparison):
  found, trained = comparison
  for _ in range(2):
    found.tune("sam", 0.0, learning_rate=0.03)
  assert len(trained) == 2  # the grid, and a radius beyond it


@pytest.mark.parametrize("name", methods.METHODS)
def test_runs_of_a_method_share_a_program(name, comparison):
  found, _ = comparison
  rhos = (0.0, 0.0) if name == "sgd" else (0.1, 0.5)
  programs = set()
  for seed, rho in enumerate(rhos):
    config = found.config(name, 0.4, **{"sam.rho": rho, "seed": seed})
    programs.add(groups.program_of(build.validate(config, 1)))
  assert len(programs) == 1


def test_costs_are_those_of_the_gradients(monkeypatch):
  monkeypatch.setattr(build, "model", tiny.create_model)
  monkeypatch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
  monkeypatch.setattr(method_costs, "_STEPS", 10)
  names = ("sgd", "sam", "look_sam 5", "single_step_sam")
  configs = {}
  for name in names:
    configs[name] = tiny.create_config()
    fields = {"sam.rho": 0.05, **methods.METHODS[name].fields}
    methods.schema.update(configs[name], fields)
  costs = method_costs.measure_costs(configs, rounds=1)
  assert costs["sgd"]["flops"] == costs["sgd"]["time"].median == 1
  assert costs["sam"]["flops"] == pytest.approx(2, abs=0.2)
  assert costs["look_sam 5"]["flops"] == pytest.approx(1.2, abs=0.1)
  # At two examples a device, its parameter-sized operations count, too.
  assert costs["single_step_sam"]["flops"] < costs["sam"]["flops"]
  assert costs["sam"]["perturbed"] == 1
  assert costs["look_sam 5"]["perturbed"] == pytest.approx(0.2)
  assert all(cost["memory"] >= 1 for cost in costs.values())


def test_table_shows_paired_differences():
  row = {
    "noise": 0.4,
    "learning rate": 0.03,
    "rho": 0.5,
    "time": Spread(1.5, 1.4, 1.6),
    "flops": 2.0,
    "memory": 1.1,
  }
  sgd = row | {
    "method": "sgd",
    "equal epochs": [30, 20],
    "equal cost": [30, 20],
  }
  sam = row | {"method": "sam", "equal epochs": [20, 10], "equal cost": [9, 7]}
  first, second = methods.table([sgd, sam])
  assert first["minus SGD"] == ""
  assert second["error %"] == "15.00 ± 63.53"
  assert second["minus SGD"] == "-10.00 ± 0.00"
  assert second["error % at equal cost"] == "8.00 ± 12.71"
  assert second["noise"] == "40%"
