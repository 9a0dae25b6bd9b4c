"""The recipe of GSAM on ViTs against that of big_vision."""

import numpy as np
import pytest

from sam_jax.config import files
from sam_jax.config.schema import flatten
from sam_jax.training import schedules


def get_config(words):
  return files.read_config(f"{files.project_config('vit')}:{words}")


def test_gsam_on_vits_is_that_of_big_vision():
  fields = dict(flatten(get_config("vit_b32,gsam").to_dict()))
  expected = {
    "num_epochs": 300,
    "batch_size": 4096,
    "augment.policy": "basic",
    "loss": "sigmoid",
    "model.name": "vit_b32_gap",
    "model.options.head_bias": -10.0,
    "dataset.normalization": "symmetric",
    "sam.method": "gsam",
    "sam.rho": 0.6,
    "sam.rho_min": 0.1,
    "sam.surrogate_gap": 0.6,
    "optimizer.learning_rate": 0.003,
    "optimizer.learning_rate_min": pytest.approx(3e-5),
    "optimizer.gradient_clipping": 1.0,
    "optimizer.weight_decay_kind": "decoupled",
  }
  assert {field: fields[field] for field in expected} == expected
  config = get_config("vit_b32,gsam")
  steps, total = 312, 312 * 300
  rate = schedules.learning_rate_schedule(config.optimizer, steps, 300)
  rho = schedules.rho_schedule(config, rate, steps)
  for step_number in (0, 5000, 10_000, 50_000, total):
    # big_vision: up to step 10,000, and down to 1% of the peak.
    progress = (step_number - 10_000) / (total - 10_000)
    expected = 3e-5 + (0.003 - 3e-5) * (1 - np.clip(progress, 0, 1))
    expected *= min(step_number / 10_000, 1)
    assert rate(step_number) == pytest.approx(expected, rel=1e-3, abs=1e-9)
    follows = 0.1 + 0.5 * (expected - 3e-5) / (0.003 - 3e-5)
    assert rho(step_number) == pytest.approx(follows, rel=1e-3)
  assert rho(10_000) == pytest.approx(0.6, rel=1e-3)
  assert rho(total) == pytest.approx(0.1, rel=1e-6)
