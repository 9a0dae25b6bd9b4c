"""Every config: its words, its recipe, and two steps of training."""

import importlib.util
import pathlib

import numpy as np
import pytest

from sam_jax.config import paper_tables as paper
from sam_jax.config.schema import (
  ConfigError,
  default_config,
  validate_config,
)
from sam_jax.datasets import in_memory
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.m_sharpness import m_sharpness_layout
from sam_jax.runs import workdir
from sam_jax.training import build as recipe
from sam_jax.training import loop

DIRECTORY = pathlib.Path(__file__).parents[2] / "configs"
FILES = sorted(path.stem for path in DIRECTORY.glob("*.py"))


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
  # test_families.py takes a step of every family; here the recipe matters.
  config.model.name = "wrn10_1"
  config.sam.m = 2  # the part of a device
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
    return in_memory.load_in_memory(spec, **fields)

  monkeypatch.setattr(in_memory, "load_split", toy_split)
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
  ("cifar", "pyramidnet_shakedrop,cifar100"),
  ("svhn", "wrn28_10,autoaugment"),
  ("fashion_mnist", "cutout,sgd"),
  ("imagenet", "efficientnet_b0,sgd"),
  ("finetune", "l2,pets"),
  ("noisy_labels", "mixup"),
  ("m_sharpness", "sgd"),
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
  ("cifar", "wrn28_11", "Unknown variant 'wrn28_11'. Known: .* 'wrn28_10'"),
  ("cifar", "sam,sgd", "'sam' and 'sgd' exclude each other. Known: wrn28_10"),
  ("cifar", "200_epochs,pyramidnet", "'200_epochs' and 'pyramidnet' exclude"),
  ("cifar", "sam,double_epochs", "'sam' and 'double_epochs' exclude"),
  ("cifar", "rho005,sgd", "'rho005' and 'sgd' exclude"),
  ("cifar", "inner_steps,pyramidnet", "No variant has all of"),
  ("finetune", "l2,rho005", "'l2' and 'rho005' exclude"),
  ("imagenet", "efficientnet_b0,100_epochs", "exclude each other"),
  ("noisy_labels", "noise30", "Did you mean 'noise80'"),
  ("digits", "adam", "Known: sam, sgd"),
]


@pytest.mark.parametrize(("name", "variant", "message"), WRONG_WORDS)
def test_wrong_words_are_named_with_the_known_ones(name, variant, message):
  with pytest.raises(ValueError, match=message) as error:
    load(name).get_config(variant)
  assert "\n" not in str(error.value)


def test_words_come_in_any_order_and_defaults_fit_the_others():
  get_config = load("cifar").get_config
  config = get_config("sgd, autoaugment,cifar100,shake_shake")
  assert config == get_config("shake_shake,cifar100,autoaugment,sgd")
  assert config.num_epochs == 1800
  # Without "sam" in it, double_epochs chooses "sgd".
  assert get_config("double_epochs") == get_config("double_epochs,sgd")


CIFAR = {
  "batch_size": 256,
  "label_smoothing": 0.0,
  "ema.decay": 0.0,
  "sam.m": 32,
  "optimizer.name": "sgd",
  "optimizer.momentum": 0.9,
  "optimizer.nesterov": True,
  "optimizer.schedule": "cosine",
  "optimizer.warmup_epochs": 0.0,
  "optimizer.weight_decay_kind": "l2",
  "optimizer.weight_decay_on_norm": True,
  "optimizer.gradient_clipping": 5.0,
}
NOISY = CIFAR | {
  "num_epochs": 200,
  "batch_size": 128,
  "model.name": "resnet32",
  "optimizer.weight_decay_on_norm": False,
}
RESNET = CIFAR | {
  "batch_size": 4096,
  "label_smoothing": 0.1,
  "sam.m": 128,
  "dataset.image_size": 224,
}
EFFICIENTNET = RESNET | {
  "num_epochs": 350,
  "batch_size": 2048,
  "ema.decay": 0.9999,
  "model.batch_norm": "all",
  "augment.policy": "randaugment",
  "augment.randaugment_layers": 2,
  "augment.randaugment_magnitude": 9,
  "optimizer.name": "rmsprop",
  "optimizer.rmsprop_decay": 0.9,
  "optimizer.rmsprop_eps": 1e-3,
  "optimizer.schedule": "exponential",
  "optimizer.warmup_epochs": 5.0,
  "optimizer.weight_decay_on_norm": False,
}
FINETUNE = CIFAR | {
  "batch_size": 1024,
  "label_smoothing": 0.1,
  "model.name": "efficientnet_b7",
  "model.batch_norm": "frozen",
  "pretrained": "checkpoints/efficientnet_b7",
  "dataset.image_size": 600,
  "sam.m": 16,
  "optimizer.gradient_clipping": 1.0,
}
L2 = FINETUNE | {
  "batch_size": 512,
  "model.name": "efficientnet_l2_475",
  "pretrained": "checkpoints/efficientnet_l2_475",
  "dataset.image_size": 475,
  "sam.m": 4,
}

# (config, words, epochs, learning rate, decay, rho, policy, cutout), others
RECIPES = [
  ("cifar", "", 200, 0.1, 5e-4, 0.05, "basic", "none", CIFAR),
  ("cifar", "sgd", 200, 0.1, 5e-4, 0.0, "basic", "none", CIFAR),
  ("cifar", "sgd,double_epochs", 400, 0.1, 5e-4, 0, "basic", "none", CIFAR),
  ("cifar", "cifar100,cutout", 200, 0.1, 5e-4, 0.1, "basic", "batch", CIFAR),
  ("cifar", "cifar100,rho005", 200, 0.1, 5e-4, 0.05, "basic", "none", CIFAR),
  ("cifar", "1800_epochs", 1800, 0.05, 1e-3, 0.05, "basic", "none", CIFAR),
  (
    *("cifar", "1800_epochs,cifar100,autoaugment"),
    *(1800, 0.05, 1e-3, 0.1, "autoaugment", "none", CIFAR),
  ),
  ("cifar", "shake_shake", 1800, 0.02, 1e-3, 0.02, "basic", "none", CIFAR),
  (
    *("cifar", "shake_shake,cifar100"),
    *(1800, 0.02, 1e-3, 0.05, "basic", "none", CIFAR),
  ),
  ("cifar", "pyramidnet", 1800, 0.05, 5e-4, 0.05, "basic", "none", CIFAR),
  (
    *("cifar", "pyramidnet,cifar100"),
    *(1800, 0.05, 5e-4, 0.2, "basic", "none", CIFAR),
  ),
  (
    *("cifar", "pyramidnet_shakedrop"),
    *(1800, 0.02, 5e-4, 0.05, "basic", "none", CIFAR),
  ),
  (
    *("cifar", "pyramidnet_shakedrop,cifar100"),
    *(1800, 0.05, 5e-4, 0.05, "basic", "none", CIFAR),
  ),
  ("svhn", "", 160, 0.01, 5e-4, 0.01, "basic", "none", CIFAR),
  (
    *("svhn", "shake_shake,autoaugment"),
    *(160, 0.01, 5e-4, 0.01, "aa-only", "batch", CIFAR),
  ),
  ("fashion_mnist", "", 200, 0.1, 5e-4, 0.05, "basic", "none", CIFAR),
  (
    *("fashion_mnist", "shake_shake,cutout"),
    *(200, 0.1, 5e-4, 0.02, "basic", "batch", CIFAR),
  ),
  ("imagenet", "", 100, 1.0, 1e-4, 0.05, "basic", "none", RESNET),
  (
    *("imagenet", "resnet152,400_epochs,sgd"),
    *(400, 1.0, 1e-4, 0.0, "basic", "none", RESNET),
  ),
  (
    *("imagenet", "efficientnet_b0"),
    *(350, 0.128, 1e-5, 0.05, "randaugment", "none", EFFICIENTNET),
  ),
  (
    *("finetune", "aircraft"),
    *(833, 0.016, 1e-5, 0.05, "none", "none", FINETUNE),
  ),
  (
    *("finetune", "cifar100"),
    *(104, 0.016, 1e-5, 0.05, "autoaugment", "none", FINETUNE),
  ),
  ("finetune", "imagenet", 10, 0.1, 1e-5, 0.05, "none", "none", FINETUNE),
  ("finetune", "l2,food,sgd", 68, 0.008, 1e-5, 0.0, "none", "none", L2),
  ("noisy_labels", "", 200, 0.1, 2e-4, 0.1, "basic", "none", NOISY),
  ("noisy_labels", "noise80", 200, 0.1, 2e-4, 0.05, "basic", "none", NOISY),
  ("m_sharpness", "", 200, 0.1, 5e-4, 0.05, "basic", "none", CIFAR),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r[0]}:{r[1]}")
def test_recipe_is_the_papers(recipe):
  name, words, epochs, learning_rate, decay, rho, policy, cutout, rest = recipe
  fields = dict(workdir.flatten(load(name).get_config(words).to_dict()))
  expected = rest | {
    "num_epochs": epochs,
    "optimizer.learning_rate": learning_rate,
    "optimizer.weight_decay": decay,
    "sam.rho": rho,
    "augment.policy": policy,
    "augment.cutout": cutout,
  }
  assert {field: fields[field] for field in expected} == expected


def test_noisy_labels():
  get_config = load("noisy_labels").get_config
  config = get_config("noise60,mixup")
  assert config.dataset.label_noise.rate == 0.6
  assert config.augment.mixup_alpha == 1.0
  assert config.sam.rho == 0.0
  config = get_config("noise60,sam,bootstrap")
  assert config.dataset.label_noise.rate == 0.0
  assert config.dataset.label_file == "labels/noise60_sam.npy"
  assert config.dataset.label_file_noise_rate == 0.6
  alphas = {
    run.get("augment.mixup_alpha") for run in load("noisy_labels").sweep()
  }
  assert alphas == {None, 1.0, 8.0, 16.0, 32.0}
  runs = list(load("noisy_labels").sweep("noise80,bootstrap,tune,sam"))
  assert [run["dataset.label_file"] for run in runs[:2]] == [
    "labels/noise80_sam_tune_rho0.01.npy",
    "labels/noise80_sam_tune_rho0.02.npy",
  ]


def test_grids_are_the_papers():
  runs = list(load("cifar").sweep("wrn28_10,200_epochs,cifar10,basic,tune"))
  assert [run.get("sam.rho") for run in runs] == [
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    None,  # SGD
  ]
  runs = list(load("cifar").sweep("inner_steps,cifar100"))
  assert {run["sam.ascent_steps"] for run in runs} == {1, 2, 3, 5}
  assert {run["seed"] for run in runs} == set(range(20))
  runs = list(load("m_sharpness").sweep("sam"))
  assert sorted({run["sam.m"] for run in runs}) == [1, 4, 16, 64, 256]
  assert {run["seed"] for run in runs} == {0, 1, 2, 3, 4}


# Where the paper's baseline is the better of N and 2N epochs.
BASELINES = [
  ("cifar", "1800_epochs,wrn28_10,cifar10,basic,sgd", {1800, 3600}),
  ("svhn", "basic,wrn28_10,sgd", {160, 320}),
  ("fashion_mnist", "basic,wrn28_10,sgd", {200, 400}),
  ("noisy_labels", "noise80,sgd", {200, 400}),
  ("noisy_labels", "noise80,mixup", {200, 400}),
  ("noisy_labels", "noise80,sam", {200}),
  ("cifar", "200_epochs,cifar10,basic,sgd,tune", {200}),
  ("cifar", "200_epochs,cifar10,basic,double_epochs", {400}),
  ("imagenet", "resnet50,100_epochs,sgd", {100}),
  ("finetune", "b7,aircraft,sgd", {833}),
]


@pytest.mark.parametrize(("name", "words", "epochs"), BASELINES)
def test_sweep_gives_baselines_the_time_of_sam(name, words, epochs):
  module = load(name)
  variants = {run["variant"] for run in module.sweep(words)}
  assert {module.get_config(v).num_epochs for v in variants} == epochs


def test_additional_skips_of_wide_resnets():
  config = default_config()
  config.model.additional_skips = True
  validate_config(config, num_devices=8)
  layout = m_sharpness_layout(32, 32, 8)
  spec = dataset_spec("cifar10")
  assert recipe.create_model(config, spec, layout).additional_skips
  config.model.name = "pyramidnet272"
  with pytest.raises(ConfigError, match="'additional_skips'"):
    validate_config(config, num_devices=8)
