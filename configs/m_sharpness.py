"""The size m of the shards with their own perturbation: figure 3 (middle).

The paper trains "a small ResNet" on CIFAR-10 and shows error against rho for
m = 1, 4, 16, 64 and 256. It gives neither the recipe nor a table: all that is
marked [INF] is our choice. Words after the colon: sam (default), sgd.

A shard also has its own batch statistics, as on a device of its own; the sweep
therefore trains without SAM at every m, too.
"""

from sam_jax.config.paper_tables import SEEDS
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

VARIANTS = Variants(method=("sam", "sgd"))

M_GRID = (1, 4, 16, 64, 256)
RHO_GRID = (0.01, 0.02, 0.05, 0.1, 0.15)  # [INF] the figure spans 0 to 0.15


def get_config(variant: str = ""):
  """Returns the config of "sam" or "sgd"."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.num_epochs = 200  # [INF]
  config.batch_size = 256  # [INF] the largest m
  config.model.name = "resnet20"  # [INF]
  config.dataset.name = "cifar10"
  config.augment.policy = "basic"  # [INF]

  config.sam.rho = 0.05 if words.method == "sam" else 0.0
  config.sam.m = 32  # [INF] as in configs/cifar.py; the sweep varies it

  # [INF] as table 6 has it for WRN-28-10.
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 5e-4
  config.optimizer.schedule = "cosine"
  config.optimizer.momentum = 0.9
  # From the official code; the paper says "momentum", and nothing of clipping.
  config.optimizer.nesterov = True
  config.optimizer.gradient_clipping = 5.0
  return config


def sweep(variant: str = ""):
  """Yields five seeds of every m and rho."""
  for words in VARIANTS.expand(variant):
    for m in M_GRID:
      for rho in RHO_GRID if words == "sam" else (0.0,):
        for seed in SEEDS:
          yield {"variant": words, "sam.m": m, "sam.rho": rho, "seed": seed}
