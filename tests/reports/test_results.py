"""Groups of runs: their seeds, their names, their numbers."""

import math

import numpy as np
import pytest

from sam_jax.reports import results
from tests.reports.written_runs import groups_of, paper_config, write_run


def test_seeds_and_places_of_files_make_no_group(tmp_path):
  write_run(tmp_path / "a", [0.1], seed=0, dataset__data_dir="/a")
  write_run(
    tmp_path / "b",
    [0.3],
    seed=1,
    dataset__label_noise__seed=1,
    compilation_cache_dir="",
  )
  write_run(tmp_path / "c", [0.1], seed=1, is_finished=False)
  (group,) = groups_of(tmp_path)
  assert [run.path.name for run in group.runs] == ["a", "b"]
  assert group.mean() == pytest.approx(20)


def test_notes_tell_equal_configs_apart(tmp_path):
  for seed in (0, 1):
    write_run(tmp_path / f"a{seed}", [0.1], seed=seed)
    write_run(tmp_path / f"b{seed}", [0.2], seed=seed, notes="new kernel")
  groups = groups_of(tmp_path)
  assert [len(group.runs) for group in groups] == [2, 2]
  labels, _ = results.labels_and_title(groups, groups)
  assert labels == ["no notes", "new kernel"]


def test_groups_are_in_the_order_of_their_fields(tmp_path):
  for rho in (0.5, 0.0, 0.05):
    for model in ("wrn28_10", "resnet50"):
      write_run(
        tmp_path / f"{rho}{model}", [0.1], sam__rho=rho, model__name=model
      )
  found = [
    (group.fields["model.name"], group.fields["sam.rho"])
    for group in groups_of(tmp_path)
  ]
  assert found == [
    (model, rho) for model in ("resnet50", "wrn28_10") for rho in (0, 0.05, 0.5)
  ]


def test_interval_covers_the_mean_as_often_as_it_says():
  random = np.random.default_rng(0)
  samples = random.normal(size=(4000, 5))
  widths = [results.confidence_half_width(sample) for sample in samples]
  covered = np.mean(np.abs(samples.mean(1)) < widths)
  assert covered == pytest.approx(0.95, abs=0.012)
  assert math.isnan(results.confidence_half_width([1.0]))


def test_labels_say_what_differs_in_a_figure_and_the_title_the_rest(tmp_path):
  for words in ("cifar10", "cifar100"):
    for method in ("sam", "sgd"):
      config = paper_config(f"{words},{method}")
      write_run(tmp_path / words / method, [0.1], config)
  groups = groups_of(tmp_path)  # SAM's rho is 0.05 and 0.1
  labels, title = results.labels_and_title(groups[:2], groups)
  assert labels == ["rho 0 (no SAM)", "rho 0.05"]
  assert title == "dataset cifar10"


@pytest.mark.parametrize(
  ("fields", "name"),
  [
    ({"sam__rho": 0.0}, "SGD"),
    ({}, "SAM"),
    ({"sam__method": "looksam"}, "looksam"),
    ({"augment__mixup_alpha": 1.0}, "Mixup + SAM"),
    ({"augment__mixup_alpha": 1.0, "sam__rho": 0.0}, "Mixup"),
    ({"dataset__label_file": "a.npy", "sam__rho": 0.0}, "Bootstrap + SGD"),
    ({"dataset__label_file": "a.npy"}, "Bootstrap + SAM"),
  ],
)
def test_names_of_methods(tmp_path, fields, name):
  write_run(tmp_path / "run", [0.1], **fields)
  (group,) = groups_of(tmp_path)
  assert results.method_name(group) == name
