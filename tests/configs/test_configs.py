"""Every config: its words, its recipe, and what training makes of it."""

import functools
import math

import jax
import numpy as np
import pytest

from sam_jax.config import files
from sam_jax.config.schema import (
  ConfigError,
  default_config,
  field_of,
  flatten,
  validate_config,
)
from sam_jax.training import build
from tests.models.shapes import init_shapes
from tests.processes import REPOSITORY

FILES = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.py"))


@functools.cache
def load(name):
  """The module of a config file."""
  return files.load(str(files.project_config(name)))


def variants(name):
  """Every combination of words, with each of the options that go with it."""
  words = load(name).VARIANTS
  known = words.expand("")
  for option in words.options:
    known += words.expand(option)
  return known


@pytest.mark.parametrize("name", FILES)
def test_every_variant_is_valid_and_says_where_it_is_from(name):
  for variant in variants(name):
    config = load(name).get_config(variant)
    validate_config(config, num_devices=8)
    assert config.variant == f"{name}:{variant}"


@pytest.mark.parametrize("name", FILES)
def test_sweep_overrides_fields_that_exist(name):
  module = load(name)
  runs = list(module.sweep())
  assert len({tuple(run.items()) for run in runs}) == len(runs) > 1
  for run in runs:
    module.VARIANTS.parse(run.pop("variant"))
    for field, value in run.items():
      field_of(field).check(value)
  default = module.VARIANTS.expand("")[0]
  assert {run["variant"] for run in module.sweep(default)} == {default}


# Config, words, parameters as published, learning rate, weight decay, whether
# that is of biases too, label smoothing, clipping.
TRAINED = [
  ("cifar", "shake_shake,cifar100", 26_227_572, 0.02, 1e-3, True, 0, 5),
  ("svhn", "wrn28_10,autoaugment", 36_220_634, 0.01, 5e-4, True, 0, 5),
  # Two channels less in a convolution of 3x3 pixels and 16 features.
  ("fashion_mnist", "sgd", 36_220_634 - 2 * 9 * 16, 0.1, 5e-4, True, 0, 5),
  ("imagenet", "resnet50", 25_557_032, 1.0, 1e-4, True, 0.1, 5),
  ("imagenet", "efficientnet_b0", 5_288_548, 0.128, 1e-5, False, 0.1, 5),
  ("finetune", "l2,pets", None, 0.008, 1e-5, True, 0.1, 1),
  ("noisy_labels", "mixup", 464_154, 0.1, 2e-4, False, 0, 5),
  ("m_sharpness", "sgd", 269_722, 0.1, 5e-4, True, 0, 5),
  ("digits", "sam", None, 0.1, 5e-4, True, 0, 5),
  ("vit", "", 86_567_656, 0.003, 0, False, 0, 1),
  ("vit", "mixer_s32,gsam", 19_104_624, 0.003, 0, False, 0, 1),
  ("vit", "vit_nano,digits", None, 0.001, 0, False, 0, 1),
  ("vit", "mixer_nano,fashion_mnist", None, 0.002, 0, False, 0, 1),
  ("hessian", "sam", None, 0.01, 5e-4, True, 0, 5),
  # Without the convolutions of shortcuts, which the paper's network lacks.
  ("second_order", "", 2_232_794, 0.1, 5e-4, True, 0, 5),
  ("norms", "random", 36_220_634, 0.1, 5e-4, True, 0, 5),
]
STEPS_PER_EPOCH = 100


def test_every_config_is_trained():
  assert {name for name, *_ in TRAINED} == set(FILES)


@pytest.fixture(params=TRAINED, ids=lambda row: f"{row[0]}:{row[1]}")
def trained(request):
  """A row of the table, its config, and the parts that train it."""
  config = load(request.param[0]).get_config(request.param[1])
  spec = build.dataset_spec(config)
  parts = build.parts(config, spec, STEPS_PER_EPOCH, num_devices=8)
  return request.param, config, spec, parts


def test_network_has_as_many_parameters_as_published(trained):
  (_, _, count, *_), _, spec, parts = trained
  if count is None:  # is not, or takes long to trace
    return
  images = jax.ShapeDtypeStruct((1, *spec.image_shape), np.float32)
  _, variables = init_shapes(parts.model, images, train=False)
  leaves = jax.tree.leaves(variables["params"])
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_objective_is_smoothed_cross_entropy_and_weight_decay(trained):
  (_, _, _, _, decay, decays_biases, smoothing, _), _, _, parts = trained
  params = {"kernel": np.float32([[1, 2], [3, 4]]), "bias": np.float32([5, 6])}
  logits, targets = np.float32([[1, -1]]), np.float32([[0, 1]])
  objective, loss = parts.loss_fn(params, logits, targets)
  # The targets are (s/2, 1 - s/2), and log softmax is -log(1 + e^-+2).
  expected = (1 - smoothing / 2) * np.log1p(np.exp(2))
  expected += smoothing / 2 * np.log1p(np.exp(-2))
  assert loss == pytest.approx(expected, rel=1e-6)
  squares = 1 + 4 + 9 + 16 + (25 + 36 if decays_biases else 0)
  penalty = decay / 2 * squares
  assert objective - loss == pytest.approx(penalty, rel=1e-2)


def test_two_updates_are_those_of_the_recipe(trained):
  """The same gradient twice, of norm 10."""
  (_, words, _, peak, *_, clipping), config, _, parts = trained
  gradient = {
    "kernel": np.float32([[6, 0], [0, 0]]),
    "bias": np.float32([8, 0]),
  }
  params = jax.tree.map(np.ones_like, gradient)
  state = parts.optimizer.init(params)
  updates = []
  for _ in range(2):
    update, state = parts.optimizer.update(gradient, state, params)
    updates.append(np.concatenate([x.ravel() for x in jax.tree.leaves(update)]))
  g = np.concatenate([x.ravel() for x in jax.tree.leaves(gradient)])
  g *= clipping / 10
  last = config.num_epochs * STEPS_PER_EPOCH
  if "efficientnet_b0" in words:  # RMSProp, 5 epochs of warm-up
    first_moment = 0.9 + 0.1 * g**2
    second_moment = 0.9 * first_moment + 0.1 * g**2
    momentum = 0.9 * g / np.sqrt(first_moment + 1e-3)
    momentum += g / np.sqrt(second_moment + 1e-3)
    rates = [0, peak * 0.012 ** (1 / last) / (5 * STEPS_PER_EPOCH)]
    expected = [0 * g, momentum]
  elif config.optimizer.name == "adamw":  # equal gradients: signs, and decay
    warmup = config.optimizer.warmup_epochs * STEPS_PER_EPOCH
    rates = [0, peak / warmup]
    decay = np.array([0, 0, 1, 1, 1, 1]) * config.optimizer.weight_decay
    expected = [0 * g, np.sign(g) + decay]  # biases first
  else:  # Nesterov's momentum, cosine
    rates = [peak, peak / 2 * (1 + np.cos(np.pi / last))]
    expected = [1.9 * g, (1 + 0.9 + 0.9**2) * g]
  for update, rate, direction in zip(updates, rates, expected, strict=True):
    np.testing.assert_allclose(update, -rate * direction, rtol=1e-5, atol=1e-9)
  lowest = config.optimizer.learning_rate_min or 0
  if "efficientnet_b0" in words:
    lowest = peak * 0.012
  assert parts.learning_rate(last) == pytest.approx(lowest, rel=1e-4, abs=1e-7)


WRONG_WORDS = [
  ("cifar", "wrn28_11", "Unknown variant 'wrn28_11'. Known: .* 'wrn28_10'"),
  ("cifar", "sam,sgd", "'sam' and 'sgd' exclude each other. Known: wrn28_10"),
  ("cifar", "200_epochs,pyramidnet", "'200_epochs' and 'pyramidnet' exclude"),
  ("cifar", "sam,double_epochs", "'sam' and 'double_epochs' exclude"),
  ("cifar", "rho005,sgd", "'rho005' and 'sgd' exclude"),
  ("cifar", "inner_steps,pyramidnet", "No variant has all of"),
  ("finetune", "l2,rho005", "'l2' and 'rho005' exclude"),
  ("imagenet", "efficientnet_b0,100_epochs", "exclude each other"),
  ("noisy_labels", "noise30", "Did you mean 'noise20'"),
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
  "model.remat": True,
  "model.dtype": "bfloat16",
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
  (
    *("hessian", "sgd", 300, 0.01, 5e-4, 0.0, "basic", "none"),
    CIFAR | {"model.name": "wrn40_10", "model.normalization": False},
  ),
  (
    *("second_order", "", 250, 0.1, 5e-4, 0.05, "basic", "none"),
    CIFAR | {"model.name": "wrn40_2", "sam.second_order": True},
  ),
  (
    *("norms", "p_inf", 200, 0.1, 5e-4, 0.05, "basic", "none"),
    CIFAR | {"model.name": "wrn28_10", "sam.p": math.inf},
  ),
  (
    *("norms", "random", 200, 0.1, 5e-4, 0.05, "basic", "none"),
    CIFAR | {"sam.p": 2.0, "sam.random_direction": True},
  ),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r[0]}:{r[1]}")
def test_recipe_is_the_papers(recipe):
  name, words, epochs, learning_rate, decay, rho, policy, cutout, rest = recipe
  fields = dict(flatten(load(name).get_config(words).to_dict()))
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
  rhos = {run["sam.rho"] for run in load("norms").sweep("p2")}
  assert sorted(rhos) == pytest.approx([10.0**k for k in range(-6, 4)])
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
  spec = build.dataset_spec(config)
  assert build.model(config, spec, build.layout(config, 8)).additional_skips
  config.model.name = "pyramidnet272"
  with pytest.raises(ConfigError, match="'additional_skips'"):
    build.validate(config, num_devices=8)
