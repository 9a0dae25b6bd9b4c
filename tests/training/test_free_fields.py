"""Fields that decide nothing change no bit of the trained network."""

import shutil
import sys
import types
from unittest import mock

import jax
import numpy as np
import pytest

from sam_jax.analysis.hook import AnalysisHook
from sam_jax.config import schema
from sam_jax.runs.checkpoints import SavedCheckpoints
from sam_jax.training import build, input_pipeline, loop
from sam_jax.training.step import create_state
from tests import tiny

OTHER_VALUES = {
  "analysis.every_epochs": 1,
  "analysis.lanczos_steps": 2,
  "analysis.m": 8,
  "analysis.measures": ("average:sigma=0.1",),
  "analysis.num_examples": 16,
  "analysis.rho": 0.1,
  "checkpoint_every_epochs": 0.5,
  "compilation_cache_dir": "",
  "dataset.data_dir": "/elsewhere",
  "dataset.label_file_noise_rate": 0.1,
  "eval_batch_size": 32,
  "eval_every_epochs": 2,
  "eval_on_train": True,
  "keep_checkpoints_at_epochs": (1,),
  "log_every_steps": 3,
  "log_to": ("own_logger:open_run",),
  "notes": "other",
  "profile": "6:7",
  "variant": "other",
}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
  monkeypatch.setattr(build, "model", lambda *_: tiny.Perceptron(0.5))
  monkeypatch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
  module = types.ModuleType("own_logger")
  module.open_run = mock.Mock()
  monkeypatch.setitem(sys.modules, "own_logger", module)


def make_config(values):
  config = tiny.create_config()
  config.num_epochs, config.ema.decay = 2, 0.9
  config.augment.policy, config.augment.mixup_alpha = "basic", 1.0
  config.keep_checkpoints_at_epochs = (1, 2)
  schema.update(config, values)
  return config


def final_network(config, workdir):
  """Return everything that later steps would depend on, without metrics."""
  spec = tiny.create_dataset(config).spec
  parts = build.parts(config, spec, 4, 8)
  template = create_state(parts, spec.image_shape, 0)
  state = SavedCheckpoints(workdir / "checkpoints").restore(template, step=8)
  return state.replace(metrics=None)


def test_no_field_that_decides_nothing_changes_a_bit(tmp_path):
  assert OTHER_VALUES.keys() == schema.free_fields()
  plain, other = make_config({}), make_config(OTHER_VALUES)
  loop.train_and_evaluate(plain, tmp_path / "plain")
  shutil.copytree(tmp_path / "plain", tmp_path / "resumed")
  shutil.rmtree(tmp_path / "resumed/checkpoints/8")  # killed before its end
  loop.train_and_evaluate(other, tmp_path / "resumed", [AnalysisHook])
  expected = final_network(plain, tmp_path / "plain")
  found = final_network(other, tmp_path / "resumed")
  jax.tree.map(np.testing.assert_array_equal, found, expected)
