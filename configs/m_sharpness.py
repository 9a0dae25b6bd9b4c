"""The number m of examples that share a perturbation: figure 3 (middle).

The paper trains "a small ResNet" on CIFAR-10 and shows error against rho for
m = 1, 4, 16, 64 and 256: small m have the lowest errors. It gives neither the
recipe nor a table, so most of this one is [INF]. Words after the colon: sam
(default), sgd.

Examples that share a perturbation also share their batch statistics, as on a
device of their own; the sweep therefore trains without SAM at every m, too.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.common import SEEDS, set_descent
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(method=("sam", "sgd"))

M_GRID = (1, 4, 16, 64, 256)
RHO_GRID = (0.01, 0.02, 0.05, 0.1, 0.15)  # [INF] the figure spans 0 to 0.15


def get_config(variant: str = "") -> ConfigDict:
  """Return the config of "sam" or "sgd"."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.variant = f"m_sharpness:{words.text}"
  config.num_epochs = 200  # [INF]
  config.batch_size = 256  # [INF] the largest m
  config.model.name = "resnet20"  # [INF]
  config.dataset.name = "cifar10"
  config.augment.policy = "basic"  # [INF]

  config.sam.rho = 0.05 if words.method == "sam" else 0.0
  config.sam.m = 32  # [INF] as in configs/cifar.py; the sweep varies it
  # [INF] as table 6 has it for WRN-28-10.
  set_descent(config, learning_rate=0.1, weight_decay=5e-4)
  return config


def sweep(variant: str = "") -> Iterator[dict[str, Any]]:
  """Yield five seeds of every m and rho."""
  for words in VARIANTS.expand(variant):
    for m in M_GRID:
      for rho in RHO_GRID if words == "sam" else (0.0,):
        for seed in SEEDS:
          yield {"variant": words, "sam.m": m, "sam.rho": rho, "seed": seed}
