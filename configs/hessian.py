r"""The Hessian's spectrum along training: figure 3 (left) of the paper.

Words after the colon: sam (default), sgd.

The paper trains a WideResNet-40-10 without batch normalization on CIFAR-10 and
shows the largest eigenvalue of the Hessian, and its ratio to the fifth one, at
three epochs. (Its text says "300 steps", its figure "epochs".)

  epoch     1           50          300
  SGD       62.9, 2.5   12.5, 1.7   24.2, 11.4
  SAM       18.6, 3.6    8.9, 1.9    1.0,  2.6

Checkpoints of these epochs, of 195 steps each, are kept for

  python -m sam_jax.analyze hessian --workdir=RUN@195 --workdir=RUN@9750 \
    --workdir=RUN@58500

The paper gives no recipe, so most of this one is [INF].
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.common import set_descent, table_runs
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(method=("sam", "sgd"))


def get_config(variant: str = "") -> ConfigDict:
  """Return the config of "sam" or "sgd"."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.variant = f"hessian:{words.text}"
  config.num_epochs = 300
  config.batch_size = 256  # [INF] as in table 6
  config.model.name = "wrn40_10"
  config.model.normalization = False
  config.dataset.name = "cifar10"
  config.augment.policy = "basic"  # [INF]

  config.sam.rho = 0.05 if words.method == "sam" else 0.0
  config.sam.m = 32  # [INF] as in configs/cifar.py
  # [INF] a tenth of table 6's: without normalization the network needs it.
  set_descent(config, learning_rate=0.01, weight_decay=5e-4)
  config.keep_checkpoints_at_epochs = (1, 50, 300)
  return config


def sweep(variant: str = "") -> Iterator[dict[str, Any]]:
  """Yield five seeds of each method."""
  return table_runs(VARIANTS, variant)
