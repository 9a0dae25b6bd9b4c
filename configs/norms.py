"""Neighborhoods of other norms, and random directions: figure 6.

Words after the colon: p2 (default), which is SAM; p_inf, the maximum norm;
random, a normal draw of length rho in place of the gradient.

The paper trains "a WideResNet" on CIFAR-10 with rho from 1e-6 to 1e3 on a
logarithmic scale (appendix C.5): p2 reaches the lowest error. Its figure spans
errors of 3.4% to 5.0%. It gives neither the recipe nor a table, so most of this
one is [INF].
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.common import SEEDS, set_descent
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(direction=("p2", "p_inf", "random"))

RHO_GRID = tuple(float(f"1e{exponent}") for exponent in range(-6, 4))  # [INF]


def get_config(variant: str = "") -> ConfigDict:
  """Return the config of "p2", "p_inf" or "random"."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.variant = f"norms:{words.text}"
  config.num_epochs = (
    200  # [INF] as table 6 has it for WRN-28-10, like the rest
  )
  config.batch_size = 256
  config.model.name = "wrn28_10"  # [INF]
  config.dataset.name = "cifar10"
  config.augment.policy = "basic"  # [INF]

  config.sam.rho = 0.05
  config.sam.m = 32  # [INF] as in configs/cifar.py
  config.sam.p = float("inf") if words.direction == "p_inf" else 2.0
  config.sam.random_direction = words.direction == "random"
  set_descent(config, learning_rate=0.1, weight_decay=5e-4)
  return config


def sweep(variant: str = "") -> Iterator[dict[str, Any]]:
  """Yield five seeds of every direction and rho."""
  for words in VARIANTS.expand(variant):
    for rho in RHO_GRID:
      for seed in SEEDS:
        yield {"variant": words, "sam.rho": rho, "seed": seed}
