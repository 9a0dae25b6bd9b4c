"""Baselines without SAM."""

import pytest

from sam_jax.reports.baselines import compare_with_baselines
from tests.reports.written_runs import groups_of, paper_config, write_run


def test_baseline_is_the_better_of_n_and_2n_epochs(tmp_path):
  write_run(tmp_path / "sam", [0.06])
  write_run(tmp_path / "n", [0.1], sam__rho=0.0)
  write_run(tmp_path / "2n", [0.08], sam__rho=0.0, num_epochs=400)
  write_run(tmp_path / "4n", [0.01], sam__rho=0.0, num_epochs=800)
  (pair,) = compare_with_baselines(groups_of(tmp_path))
  assert pair.sam.mean() == pytest.approx(6)
  assert pair.baseline.mean() == pytest.approx(8)
  assert pair.reduction == pytest.approx(25)


def test_all_but_sam_and_notes_must_agree(tmp_path):
  write_run(tmp_path / "sam", [0.06], notes="with SAM", sam__adaptive=True)
  write_run(tmp_path / "m", [0.01], sam__rho=0.0, sam__m=8)
  write_run(tmp_path / "rate", [0.01], sam__rho=0.0, optimizer__momentum=0.8)
  assert not compare_with_baselines(groups_of(tmp_path))
  write_run(tmp_path / "sgd", [0.1], notes="plain", sam__rho=0.0)
  (pair,) = compare_with_baselines(groups_of(tmp_path))
  assert pair.baseline.mean() == pytest.approx(10)


def test_baseline_under_label_noise_is_mixup_with_its_best_alpha(tmp_path):
  write_run(
    tmp_path / "sam", [0.049], paper_config("noise20,sam", "noisy_labels")
  )
  write_run(
    tmp_path / "sgd", [0.02], paper_config("noise20,sgd", "noisy_labels")
  )
  groups = groups_of(tmp_path)
  (pair,) = compare_with_baselines(groups)
  assert pair.baseline.fields["augment.mixup_alpha"] == 0
  for alpha, error in ((1.0, 0.08), (8.0, 0.07), (32.0, 0.09)):
    config = paper_config("noise20,mixup", "noisy_labels")
    path = tmp_path / f"mixup{alpha}"
    write_run(path, [error], config, augment__mixup_alpha=alpha)
  (pair,) = compare_with_baselines(groups_of(tmp_path))
  assert pair.baseline.fields["augment.mixup_alpha"] == 8
  assert pair.reduction == pytest.approx(30)


def test_no_reduction_of_an_error_of_zero(tmp_path):
  write_run(tmp_path / "sam", [0.0])
  write_run(tmp_path / "sgd", [0.0], sam__rho=0.0)
  assert not compare_with_baselines(groups_of(tmp_path))
