"""Measurements of a run: they are logged, and do not change it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sam_jax.analysis.hook import AnalysisHook
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.datasets import catalog
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.training import build, input_pipeline, loop
from sam_jax.training.hooks import RunContext
from sam_jax.training.step import create_state

SPEC = dataclasses.replace(
  catalog.dataset_spec("cifar10"), image_shape=(4, 4, 3)
)
NAMES = (
  "loss",
  "sharpness",
  "m_sharpness",
  "lambda_max",
  "perturbation_seen",
)


def tiny_config(**analysis):
  config = default_config()
  config.batch_size = 16
  config.num_epochs = 2
  config.model.name = "tests.tiny:ConvNet"
  config.augment.policy = "none"
  config.sam.rho = 0.0
  config.model.batch_norm = "all"  # is not to be looked for in evaluation
  config.compilation_cache_dir = ""
  config.analysis.update(num_examples=24, m=8, lanczos_steps=2, **analysis)
  return config


def tiny_dataset(config=None):
  random = np.random.default_rng(0)
  images = random.integers(256, size=(32, 4, 4, 3)).astype(np.uint8)
  labels = random.integers(10, size=32).astype(np.int32)
  examples = (images, labels)
  sizes = {"batch_size": 16, "eval_batch_size": 16}
  return InMemoryDataset(SPEC, examples, examples, seed=0, **sizes)


def train(workdir, config):
  """Return the run's lines of metrics, and its last state."""
  hooks = [AnalysisHook] if config.analysis.every_epochs else []
  loop.train_and_evaluate(config, workdir, hooks)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  checkpoints = Checkpoints(workdir / "checkpoints")
  parts = build.parts(config, SPEC, 2, 8)
  template = create_state(parts, SPEC.image_shape, 0)
  state = checkpoints.restore_latest(template)
  checkpoints.close()
  return [json.loads(line) for line in lines], state


def test_run_is_measured_and_not_changed(tmp_path, monkeypatch):
  monkeypatch.setattr(input_pipeline, "create_dataset", tiny_dataset)
  further = ("average:draws=2", "rank")
  lines, state = train(
    tmp_path / "with", tiny_config(every_epochs=1, measures=further)
  )
  measured = [line for line in lines if "analysis/loss" in line]
  assert [line["step"] for line in measured] == [2, 4]
  for line in measured:
    assert {f"analysis/{name}" for name in (*NAMES, *further)} < line.keys()
    assert line["analysis/m_sharpness"] > line["analysis/sharpness"] > 0
    assert line["analysis/lambda_max"] > 0
    assert 1 <= line["analysis/rank"] <= 24
    assert line["analysis/perturbation_seen"] == pytest.approx(1, abs=1e-3)
  lines, other = train(tmp_path / "without", tiny_config())
  assert not any("analysis/loss" in line for line in lines)
  jax.tree.map(np.testing.assert_array_equal, state.params, other.params)


def test_examples_must_be_enough_for_every_measure():
  """The data set may have fewer than the config asks for."""
  config = tiny_config(every_epochs=1, measures=("worst:m=40",))
  config.analysis.num_examples = 50
  parts = build.parts(config, SPEC, 2, 8)
  run = RunContext(config, None, tiny_dataset(), parts, None, None)
  with pytest.raises(ConfigError, match=r"analysis.measures: worst:m=40 needs"):
    AnalysisHook(run, None)


def test_groups_must_exist():
  config = tiny_config(every_epochs=1)
  config.analysis.update(num_examples=500, m=400)
  parts = build.parts(config, SPEC, 2, 8)
  run = RunContext(config, None, tiny_dataset(), parts, None, None)
  with pytest.raises(ConfigError, match=r"config.analysis.m: m = 400 makes no"):
    AnalysisHook(run, None)
