"""SVHN from scratch: tables 5 and 7 of the paper.

Trains on the 73,257 training and 531,131 extra images. Words after the colon,
in any order; the first of each line is the default:

  wrn28_10, shake_shake
  basic, autoaugment    the published SVHN policy, and Cutout
  sam, sgd
  double_epochs   for sgd: a baseline of the paper is the better of N and 2N
  tune            evaluate on 7,328 training examples held out
"""

from sam_jax.config.paper_tables import name_cell, table_runs
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(
  model=("wrn28_10", "shake_shake"),
  augment=("basic", "autoaugment"),
  method=("sam", "sgd"),
  options=("double_epochs", "tune"),
  excluded=(("double_epochs", "sam"),),
)

MODELS = {"wrn28_10": "wrn28_10", "shake_shake": "shake_shake_26_2x96d"}

# Table 5: error with SAM and with SGD, in percent.
ERRORS = {
  ("wrn28_10", "basic"): ("1.42 ± 0.02", "1.58 ± 0.03"),
  ("wrn28_10", "autoaugment"): ("0.99 ± 0.01", "1.14 ± 0.04"),
  ("shake_shake", "basic"): ("1.44 ± 0.02", "1.58 ± 0.05"),
  ("shake_shake", "autoaugment"): ("1.07 ± 0.02", "1.03 ± 0.02"),
}


def get_config(variant: str = ""):
  """Returns the config of the words given."""
  words = VARIANTS.parse(variant)
  config = default_config()
  # [M] as in the AutoAugment paper; this paper does not say.
  config.num_epochs = 320 if words.double_epochs else 160
  config.batch_size = 256
  config.model.name = MODELS[words.model]
  config.dataset.name = "svhn"
  # The official release's way to hold out; the paper says 10%.
  config.dataset.validation_size = 7328 if words.tune else 0
  # "aa-only" is the policy without a flip and a crop: the paper does not say,
  # the official code recommends it for SVHN.
  is_basic = words.augment == "basic"
  config.augment.policy = "basic" if is_basic else "aa-only"
  # One place for the whole batch, as in the official code.
  config.augment.cutout = "none" if is_basic else "batch"

  config.sam.rho = 0.01 if words.method == "sam" else 0.0  # table 7
  # [INF] 256 examples on 8 GPUs, each with its own perturbation. A fixed m
  # makes the result independent of the number of devices.
  config.sam.m = 32

  config.optimizer.learning_rate = 0.01  # table 7
  config.optimizer.weight_decay = 5e-4  # table 7
  config.optimizer.schedule = "cosine"
  config.optimizer.momentum = 0.9
  # From the official code; the paper says "momentum", and nothing of clipping.
  config.optimizer.nesterov = True
  config.optimizer.gradient_clipping = 5.0
  if not words.tune:
    error = ERRORS[words.model, words.augment][words.method == "sgd"]
    cell = f"SVHN, {words.model}, {words.augment}, {words.method}"
    name_cell(config, "5", cell, error)
  return config


def sweep(variant: str = ""):
  """Five seeds of every variant with these words; tune: the grid of rho."""
  return table_runs(VARIANTS, variant)
