"""The term with the Hessian that SAM drops: figures 4 and 5 (appendix C.4).

Words after the colon: second_order (default), first_order, which is SAM.

The paper trains a WideResNet-40-2 on CIFAR-10 for more than 40,000 steps. The
updates of both point in almost the same direction in the first half; with the
term the training loss ends lower, and the test error higher. It gives neither
the recipe nor a table, so most of this one is [INF].
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.common import set_descent, table_runs
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(method=("second_order", "first_order"))


def get_config(variant: str = "") -> ConfigDict:
  """Return the config of "second_order" or "first_order"."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.variant = f"second_order:{words.text}"
  config.num_epochs = 250  # [INF] 48,750 steps
  config.batch_size = 256  # [INF] as in table 6
  config.model.name = "wrn40_2"
  config.dataset.name = "cifar10"
  config.augment.policy = "basic"  # [INF]

  config.sam.rho = 0.05  # [INF] as table 6 has it for WRN-28-10, like the rest
  config.sam.m = 32  # [INF] as in configs/cifar.py
  config.sam.second_order = words.method == "second_order"
  set_descent(config, learning_rate=0.1, weight_decay=5e-4)
  return config


def sweep(variant: str = "") -> Iterator[dict[str, Any]]:
  """Yield five seeds with the term and without."""
  return table_runs(VARIANTS, variant)
