"""Handwritten digits with noisy labels: the effect of SAM within a minute.

Words after the colon: sam (default), sgd. The data set comes with
scikit-learn and needs no download. 40% of the training labels are redrawn at
random, the same ones for all seeds. SGD ends with an error near 24%, SAM near
3% (README.md).
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(method=("sam", "sgd"))


def get_config(variant: str = "") -> ConfigDict:
  """Return the config of "sam" or "sgd"."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.variant = f"digits:{words.text}"
  config.num_epochs = 15
  config.batch_size = 128
  config.model.name = "wrn10_2"
  config.dataset.name = "digits"
  config.dataset.label_noise.rate = 0.4
  config.augment.policy = "none"
  config.sam.rho = 0.5 if words.method == "sam" else 0.0
  config.sam.m = 32
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 5e-4
  config.log_every_steps = 11  # an epoch
  config.checkpoint_every_epochs = 5
  return config


def sweep(variant: str = "") -> Iterator[dict[str, Any]]:
  """Yield three seeds of SGD and of SAM with several rho."""
  for words in VARIANTS.expand(variant):
    grid = (0.1, 0.2, 0.5, 1.0) if words == "sam" else (0.0,)
    for rho in grid:
      for seed in range(3):
        yield {"variant": words, "sam.rho": rho, "seed": seed}
