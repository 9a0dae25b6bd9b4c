"""CIFAR-10 and CIFAR-100 from scratch: tables 1 and 6 of the paper.

Words after the colon, in any order; the first of each line is the default:

  wrn28_10, shake_shake, pyramidnet, pyramidnet_shakedrop
  200_epochs, 1800_epochs      only wrn28_10 has a choice
  cifar10, cifar100
  basic, cutout, autoaugment
  sam, sgd
  double_epochs   for sgd: a baseline of the paper is the better of N and 2N
  tune            evaluate on 5,000 training examples held out

For example --config=configs/cifar.py:pyramidnet,cifar100,autoaugment,sam.
"""

from sam_jax.training.config import default_config
from sam_jax.training.paper import name_cell, table_runs
from sam_jax.training.variants import Variants

VARIANTS = Variants(
  model=("wrn28_10", "shake_shake", "pyramidnet", "pyramidnet_shakedrop"),
  epochs=("200_epochs", "1800_epochs"),
  dataset=("cifar10", "cifar100"),
  augment=("basic", "cutout", "autoaugment"),
  method=("sam", "sgd"),
  options=("double_epochs", "tune"),
  excluded=(
    ("shake_shake", "200_epochs"),
    ("pyramidnet", "200_epochs"),
    ("pyramidnet_shakedrop", "200_epochs"),
    ("double_epochs", "sam"),
  ),
)

MODELS = {
  "wrn28_10": "wrn28_10",
  "shake_shake": "shake_shake_26_2x96d",
  "pyramidnet": "pyramidnet272",
  "pyramidnet_shakedrop": "pyramidnet272_shakedrop",
}

# Table 6: learning rate, weight decay, and rho.
RECIPES = {
  ("wrn28_10", "200_epochs", "cifar10"): (0.1, 5e-4, 0.05),
  ("wrn28_10", "200_epochs", "cifar100"): (0.1, 5e-4, 0.1),
  ("wrn28_10", "1800_epochs", "cifar10"): (0.05, 1e-3, 0.05),
  ("wrn28_10", "1800_epochs", "cifar100"): (0.05, 1e-3, 0.1),
  # [INF] 1800 epochs, as for these networks in the AutoAugment paper; this
  # paper does not say.
  ("shake_shake", "1800_epochs", "cifar10"): (0.02, 1e-3, 0.02),
  ("shake_shake", "1800_epochs", "cifar100"): (0.02, 1e-3, 0.05),
  ("pyramidnet", "1800_epochs", "cifar10"): (0.05, 5e-4, 0.05),
  ("pyramidnet", "1800_epochs", "cifar100"): (0.05, 5e-4, 0.2),
  ("pyramidnet_shakedrop", "1800_epochs", "cifar10"): (0.02, 5e-4, 0.05),
  ("pyramidnet_shakedrop", "1800_epochs", "cifar100"): (0.05, 5e-4, 0.05),
}

# Table 1: error on CIFAR-10 (SAM, SGD) and CIFAR-100 (SAM, SGD), in percent.
ERRORS = {
  ("wrn28_10", "200_epochs"): {
    "basic": ("2.7 ± 0.1", "3.5 ± 0.1", "16.5 ± 0.2", "18.8 ± 0.2"),
    "cutout": ("2.3 ± 0.1", "2.6 ± 0.1", "14.9 ± 0.2", "16.9 ± 0.1"),
    "autoaugment": ("2.1 ± <0.1", "2.3 ± 0.1", "13.6 ± 0.2", "15.8 ± 0.2"),
  },
  ("wrn28_10", "1800_epochs"): {
    "basic": ("2.4 ± 0.1", "3.5 ± 0.1", "16.3 ± 0.2", "19.1 ± 0.1"),
    "cutout": ("2.1 ± 0.1", "2.7 ± 0.1", "14.0 ± 0.1", "17.4 ± 0.1"),
    "autoaugment": ("1.6 ± 0.1", "2.2 ± <0.1", "12.8 ± 0.2", "16.1 ± 0.2"),
  },
  ("shake_shake", "1800_epochs"): {
    "basic": ("2.3 ± <0.1", "2.7 ± 0.1", "15.1 ± 0.1", "17.0 ± 0.1"),
    "cutout": ("2.0 ± <0.1", "2.3 ± 0.1", "14.2 ± 0.2", "15.7 ± 0.2"),
    "autoaugment": ("1.6 ± <0.1", "1.9 ± 0.1", "12.8 ± 0.1", "14.1 ± 0.2"),
  },
  ("pyramidnet", "1800_epochs"): {
    "basic": ("2.7 ± 0.1", "4.0 ± 0.1", "14.6 ± 0.4", "19.7 ± 0.3"),
    "cutout": ("1.9 ± 0.1", "2.5 ± 0.1", "12.6 ± 0.2", "16.4 ± 0.1"),
    "autoaugment": ("1.6 ± 0.1", "1.9 ± 0.1", "11.6 ± 0.1", "14.6 ± 0.1"),
  },
  ("pyramidnet_shakedrop", "1800_epochs"): {
    "basic": ("2.1 ± 0.1", "2.5 ± 0.1", "13.3 ± 0.2", "14.5 ± 0.1"),
    "cutout": ("1.6 ± <0.1", "1.9 ± 0.1", "11.3 ± 0.1", "11.8 ± 0.2"),
    "autoaugment": ("1.4 ± <0.1", "1.6 ± <0.1", "10.3 ± 0.1", "10.6 ± 0.1"),
  },
}


def get_config(variant: str = ""):
  """Returns the config of the words given."""
  words = VARIANTS.parse(variant)
  recipe = RECIPES[words.model, words.epochs, words.dataset]
  learning_rate, weight_decay, rho = recipe
  config = default_config()
  epochs = int(words.epochs.removesuffix("_epochs"))
  config.num_epochs = 2 * epochs if words.double_epochs else epochs
  config.batch_size = 256
  config.model.name = MODELS[words.model]
  config.dataset.name = words.dataset
  # The official release's way to hold out; the paper says 10%.
  config.dataset.validation_size = 5000 if words.tune else 0
  set_augmentation(config.augment, words.augment)

  config.sam.rho = rho if words.method == "sam" else 0.0
  # [INF] 256 examples on 8 GPUs, each with its own perturbation. A fixed m
  # makes the result independent of the number of devices.
  config.sam.m = 32

  config.optimizer.learning_rate = learning_rate
  config.optimizer.weight_decay = weight_decay
  config.optimizer.schedule = "cosine"
  config.optimizer.momentum = 0.9
  # The paper says "momentum" and does not mention clipping; the official code
  # has Nesterov's momentum and clips, SGD's gradients too.
  config.optimizer.nesterov = True
  config.optimizer.gradient_clipping = 5.0
  name_papers_cell(config, words)
  return config


def set_augmentation(augment, word: str) -> None:
  """Flips and crops; Cutout or AutoAugment on top."""
  augment.policy = "autoaugment" if word == "autoaugment" else "basic"
  # One place for the whole batch, as in the official code; the Cutout paper
  # draws one for each image ("image"). The official AutoAugment command has no
  # Cutout.
  augment.cutout = "batch" if word == "cutout" else "none"


def name_papers_cell(config, words) -> None:
  """Notes the number of table 1; results on held-out data have none."""
  if words.tune:
    return
  column = 2 * (words.dataset == "cifar100") + (words.method == "sgd")
  error = ERRORS[words.model, words.epochs][words.augment][column]
  cell = [words.model, words.epochs, words.augment, words.dataset, words.method]
  name_cell(config, "1", ", ".join(cell), error)


def sweep(variant: str = ""):
  """Five seeds of every variant with these words; tune: the grid of rho."""
  return table_runs(VARIANTS, variant)
