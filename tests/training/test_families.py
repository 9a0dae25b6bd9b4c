"""A SAM step of every family of networks, on two devices."""

import dataclasses
import functools
import pathlib
import shutil

import jax
import numpy as np
import pytest

from sam_jax.config.schema import ConfigError, default_config
from sam_jax.datasets import catalog
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.models import (
  efficientnet,
  mlp_mixer,
  resnet,
  vision_transformer,
)
from sam_jax.pretrained.formats import read_checkpoint
from sam_jax.runs.checkpoints import SavedCheckpoints
from sam_jax.training import build, input_pipeline, loop, parallel, start
from sam_jax.training import step as step_lib
from sam_jax.training.parallel import AXIS
from tests.models.golden_models import quick_state

CHECKPOINT = pathlib.Path(__file__).parents[1] / "golden/ckpt_tiny/checkpoint_0"
SPEC = dataclasses.replace(
  catalog.dataset_spec("cifar10"), image_shape=(16, 16, 3)
)
# Two blocks that have every kind of layer of an EfficientNet.
SMALL_EFFICIENTNET = efficientnet.CONFIGS["efficientnet_tiny"]._replace(
  stages=(
    efficientnet.Stage(8, 8, 5, 1, 6, 2),
    efficientnet.Stage(8, 8, 3, 1, 1, 1),
  )
)
# A network of each family, and fields that leave out repeated layers.
FAMILIES = {
  "wrn10_1": {},
  "shake_shake_mini": {"blocks_per_group": 1},
  "pyramidnet_mini_shakedrop": {"alpha": 12},
  "resnet20": {"blocks_per_group": 1},
  "resnet18": {},
  "efficientnet_tiny": {"config": SMALL_EFFICIENTNET},
  "cnn8": {"depth": 4},
  "vit_nano4": {},
  "mixer_nano4": {},
}


def make_config(name, dtype="float32"):
  config = default_config()
  config.batch_size = 16
  config.num_epochs = 1
  config.model.name = name
  config.model.dtype = dtype
  config.optimizer.learning_rate = 0.01
  return config


@functools.cache
def take_step(name, dtype="float32"):
  """Return the states before and after one step, and its metrics."""
  parts = build.parts(make_config(name, dtype), SPEC, 4, 2)
  model = parts.model.clone(**FAMILIES.get(name, {}))
  parts = dataclasses.replace(parts, model=model)
  before = quick_state(parts, SPEC.image_shape)
  step = parallel.map_train_step(
    functools.partial(step_lib.train_step, parts=parts), jax.devices()[:2]
  )
  random = np.random.default_rng(0)
  batch = {
    "image": random.normal(size=(2, 8, *SPEC.image_shape)).astype(np.float32),
    "target": np.eye(10, dtype=np.float32)[random.integers(10, size=(2, 8))],
  }
  after, metrics = jax.device_get(step(before, batch))
  return before, after, metrics


@pytest.mark.parametrize("name", FAMILIES)
def test_sam_step_of_every_family(name, monkeypatch):
  # Two of its four stages have every kind of layer, and 3% of the parameters.
  monkeypatch.setitem(resnet._RESNETS, 18, ((1, 1), False))
  for module in (vision_transformer, mlp_mixer):
    size = module.SIZES["nano"]._replace(depth=1)
    monkeypatch.setitem(module.SIZES, "nano", size)
  before, after, metrics = take_step(name)
  assert metrics["diverged_at"] == -1
  assert metrics["perturbation_norm"] == pytest.approx(0.05, rel=1e-4)
  moved = jax.tree.map(
    lambda x, y: bool(np.any(x != y)), before.params, after.params
  )
  assert all(jax.tree.leaves(moved))
  stats_moved = jax.tree.map(
    lambda x, y: bool(np.any(x != y)), before.batch_stats, after.batch_stats
  )
  assert all(jax.tree.leaves(stats_moved))


def test_bfloat16_keeps_everything_but_activations_in_float32():
  _, after, metrics = take_step("tests.tiny:ConvNet", "bfloat16")
  _, _, exact_metrics = take_step("tests.tiny:ConvNet")
  dtypes = {
    x.dtype
    for x in jax.tree.leaves(after)
    if np.issubdtype(x.dtype, np.floating)
  }
  assert dtypes == {np.dtype(np.float32)}
  assert metrics["loss"] == pytest.approx(exact_metrics["loss"], rel=0.05)
  assert metrics["loss"] != exact_metrics["loss"]
  assert metrics["perturbation_norm"] == pytest.approx(0.05, rel=1e-5)


def test_batch_statistics_are_shared_as_officially():
  config = make_config("efficientnet_tiny")
  settings = build.parts(config, SPEC, 4, 8).model.settings
  assert (settings.batch_norm_axis, settings.batch_norm_groups) == (AXIS, None)
  config.pretrained = str(CHECKPOINT)
  parts = build.parts(config, SPEC, 4, 8)
  assert parts.model.settings.freeze_batch_norm
  assert parts.freezes_batch_stats
  config = make_config("resnet18")
  assert build.parts(config, SPEC, 4, 8).model.settings.batch_norm_axis is None


def test_networks_without_normalization_have_no_batch_statistics():
  config = make_config("wrn10_1")
  config.model.normalization = False
  parts = build.parts(config, SPEC, 4, 8)
  create = functools.partial(step_lib.create_state, parts, SPEC.image_shape, 0)
  assert jax.eval_shape(create).batch_stats == {}


def test_fine_tuning_starts_from_an_official_checkpoint(tmp_path, monkeypatch):
  """From msgpack file to trained weights: head replaced, statistics frozen."""
  random = np.random.default_rng(0)
  images = random.integers(256, size=(32, 16, 16, 3)).astype(np.uint8)
  labels = random.integers(10, size=32).astype(np.int32)

  def toy_dataset(config):
    return InMemoryDataset(
      SPEC,
      (images, labels),
      (images, labels),
      batch_size=config.batch_size,
      eval_batch_size=config.batch_size,
      seed=0,
    )

  monkeypatch.setattr(input_pipeline, "create_dataset", toy_dataset)
  config = make_config("efficientnet_tiny")
  config.pretrained = str(shutil.copy(CHECKPOINT, tmp_path / "official"))
  config.augment.policy = "none"
  started = []

  def note_initial_state(*arguments):
    started.append(start.initial_state(*arguments))
    return started[-1]

  monkeypatch.setattr(loop, "initial_state", note_initial_state)
  result = loop.train_and_evaluate(config, tmp_path / "run")
  state = jax.device_get(started[0])
  official = read_checkpoint(CHECKPOINT)
  stem = official.params["Stem_0/conv2d/kernel"]
  np.testing.assert_array_equal(
    state.params["Stem_0"]["conv2d"]["kernel"], stem
  )
  assert state.params["Head_6"]["dense"]["kernel"].shape == (64, 10)
  assert result["step"] == 2
  assert np.isfinite(result["loss"])
  trained = SavedCheckpoints(tmp_path / "run/checkpoints").restore(
    state, step=2
  )
  mean = trained.batch_stats["Stem_0"]["batch_normalization"]["mean"]
  expected = official.batch_stats["Stem_0/batch_normalization/mean"]
  np.testing.assert_array_equal(mean, expected)

  # A run that has started no longer needs the file.
  pathlib.Path(config.pretrained).unlink()
  assert loop.train_and_evaluate(config, tmp_path / "run") is None
  with pytest.raises(ConfigError, match="there is no such file"):
    loop.train_and_evaluate(config, tmp_path / "another")
