"""Every config: its words, its recipe, and two steps of training."""

import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest

from sam_jax.datasets import decoded, in_memory
from sam_jax.training import loop, paper, workdir
from sam_jax.training.config import default_config, validate_config

DIRECTORY = pathlib.Path(__file__).parents[2] / "configs"
FILES = sorted(path.stem for path in DIRECTORY.glob("*.py"))

# A small network of the same family.
SMALL_MODELS = {
  r"wrn.*": "wrn10_1",
  r"shake_shake.*": "shake_shake_mini",
  r"pyramidnet\d+": "pyramidnet_mini",
  r"pyramidnet\d+_shakedrop": "pyramidnet_mini_shakedrop",
  r"resnet(20|32)": "resnet20",
  r"resnet(50|101|152)": "resnet18",
  r"efficientnet.*": "efficientnet_tiny",
}


def load(name):
  """The module of a config file."""
  spec = importlib.util.spec_from_file_location(name, DIRECTORY / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def variants(name):
  """Every combination of words, with each of the options that go with it."""
  words = load(name).VARIANTS
  known = words.expand("")
  for option in words._options:
    known += words.expand(option)
  return known


def shrink(config):
  """Makes a config small enough to train for two steps at once."""
  (config.model.name,) = {
    small
    for pattern, small in SMALL_MODELS.items()
    if re.fullmatch(pattern, config.model.name)
  }
  if config.sam.m:
    config.sam.m = max(config.sam.m * 16 // config.batch_size, 1)
  config.batch_size = 16
  config.num_epochs = config.eval_every_epochs = 1
  config.checkpoint_every_epochs = 1.0
  config.dataset.image_size = 16
  config.dataset.validation_size = 0
  config.dataset.label_file = None
  config.pretrained = None
  return config


def toy_split(spec, split, data_dir):
  """Random images, so many that the training set makes two steps."""
  del data_dir
  count = 32 // len(spec.train_splits) if split in spec.train_splits else 16
  random = np.random.default_rng(0)
  shape = (count, 16, 16, spec.image_shape[-1])
  return {
    "image": random.integers(256, size=shape).astype(np.uint8),
    "label": random.integers(spec.num_classes, size=count).astype(np.int32),
  }


@pytest.fixture
def toy_data(monkeypatch):
  """Replaces every data set by random images."""

  def toy_stream(spec, crops_at_random, **fields):
    del crops_at_random
    return in_memory.load_in_memory(
      spec, noise_rate=0.0, noise_kind="symmetric", noise_seed=0, **fields
    )

  monkeypatch.setattr(decoded, "load_split", toy_split)
  monkeypatch.setattr(loop, "load_streaming", toy_stream)


@pytest.mark.parametrize("name", FILES)
def test_every_variant_is_valid_and_has_no_unknown_field(name):
  known = {field for field, _ in workdir.flatten(default_config().to_dict())}
  module = load(name)
  for variant in variants(name):
    config = module.get_config(variant)
    config.pretrained = None  # the file is not there
    validate_config(config, num_devices=8)
    fields = {field for field, _ in workdir.flatten(config.to_dict())}
    assert fields == known, variant
    assert config.paper.error == "" or paper.is_papers_recipe(
      module.get_config(variant).to_dict()
    )


@pytest.mark.parametrize("name", FILES)
def test_sweep_overrides_fields_that_exist(name):
  module = load(name)
  runs = list(module.sweep())
  assert len({tuple(run.items()) for run in runs}) == len(runs) > 1
  for run in runs:
    config = module.get_config(run.pop("variant"))
    config.lock()
    config.update_from_flattened_dict(run)
  default = module.VARIANTS.expand("")[0]
  assert {run["variant"] for run in module.sweep(default)} == {default}


TRAINED = [
  ("cifar", "wrn28_10"),
  ("cifar", "shake_shake,cutout"),
  ("cifar", "pyramidnet,cifar100"),
  ("cifar", "pyramidnet_shakedrop,sgd"),
  ("svhn", "autoaugment"),
  ("fashion_mnist", "cutout"),
  ("imagenet", "resnet50"),
  ("imagenet", "efficientnet_b0"),
  ("finetune", "l2,pets"),
  ("finetune", "b7,cifar10,sgd"),
  ("noisy_labels", "mixup"),
  ("m_sharpness", "sam"),
  ("digits", "sam"),
]


def test_every_config_is_trained():
  assert {name for name, _ in TRAINED} == set(FILES)


@pytest.mark.parametrize(("name", "variant"), TRAINED)
def test_two_steps(name, variant, tmp_path, toy_data):
  config = shrink(load(name).get_config(variant))
  result = loop.train_and_evaluate(config, tmp_path)
  assert result["step"] == 2
  assert np.isfinite(result["loss"])


WRONG_WORDS = [
  ("cifar", "wrn28_11", "Unknown variant 'wrn28_11'. Known: .*'wrn28_10'"),
  ("cifar", "sam,sgd", "'sam' and 'sgd' exclude each other"),
  ("cifar", "200_epochs,pyramidnet", "'200_epochs' and 'pyramidnet' exclude"),
  ("cifar", "double_epochs", "No variant|'double_epochs'"),
  ("imagenet", "efficientnet_b0,100_epochs", "exclude each other"),
  ("digits", "adam", "Known: sam, sgd"),
]


@pytest.mark.parametrize(("name", "variant", "message"), WRONG_WORDS[:3])
def test_wrong_words_are_named_with_the_known_ones(name, variant, message):
  with pytest.raises(ValueError, match=message) as error:
    load(name).get_config(variant)
  assert "\n" not in str(error.value)
