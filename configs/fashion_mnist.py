"""Fashion-MNIST from scratch: tables 5 and 7 of the paper.

Words after the colon, in any order; the first of each line is the default:

  wrn28_10, shake_shake
  basic, cutout   the paper's row "AA" is Cutout alone on this data set
  sam, sgd
  double_epochs   for sgd: a baseline of the paper is the better of N and 2N
  tune            evaluate on 6,000 training examples held out
"""

from sam_jax.config.paper_tables import name_cell, table_runs
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(
  model=("wrn28_10", "shake_shake"),
  augment=("basic", "cutout"),
  method=("sam", "sgd"),
  options=("double_epochs", "tune"),
  excluded=(("double_epochs", "sam"),),
)

MODELS = {"wrn28_10": "wrn28_10", "shake_shake": "shake_shake_26_2x96d"}
RHO = {"wrn28_10": 0.05, "shake_shake": 0.02}  # table 7

# Table 5: error with SAM and with SGD, in percent.
ERRORS = {
  ("wrn28_10", "basic"): ("3.98 ± 0.05", "4.57 ± 0.07"),
  ("wrn28_10", "cutout"): ("3.61 ± 0.06", "3.86 ± 0.14"),
  ("shake_shake", "basic"): ("3.97 ± 0.09", "4.37 ± 0.06"),
  ("shake_shake", "cutout"): ("3.59 ± 0.01", "3.76 ± 0.07"),
}


def get_config(variant: str = ""):
  """Returns the config of the words given."""
  words = VARIANTS.parse(variant)
  config = default_config()
  # [INF] as for CIFAR with this learning rate; the paper does not say.
  config.num_epochs = 400 if words.double_epochs else 200
  config.batch_size = 256
  config.model.name = MODELS[words.model]
  config.dataset.name = "fashion_mnist"
  config.dataset.validation_size = 6000 if words.tune else 0
  config.augment.policy = "basic"
  # One place for the whole batch, as in the official code.
  config.augment.cutout = "batch" if words.augment == "cutout" else "none"

  config.sam.rho = RHO[words.model] if words.method == "sam" else 0.0
  # [INF] 256 examples on 8 GPUs, each with its own perturbation. A fixed m
  # makes the result independent of the number of devices.
  config.sam.m = 32

  config.optimizer.learning_rate = 0.1  # table 7
  config.optimizer.weight_decay = 5e-4  # table 7
  config.optimizer.schedule = "cosine"
  config.optimizer.momentum = 0.9
  # From the official code; the paper says "momentum", and nothing of clipping.
  config.optimizer.nesterov = True
  config.optimizer.gradient_clipping = 5.0
  if not words.tune:
    error = ERRORS[words.model, words.augment][words.method == "sgd"]
    cell = f"Fashion-MNIST, {words.model}, {words.augment}, {words.method}"
    name_cell(config, "5", cell, error)
  return config


def sweep(variant: str = ""):
  """Five seeds of every variant with these words; tune: the grid of rho."""
  return table_runs(VARIANTS, variant)
