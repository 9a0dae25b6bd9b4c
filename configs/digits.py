"""Handwritten digits with noisy labels: SAM's effect within a minute.

Variants: configs/digits.py:sam (the default) and configs/digits.py:sgd.
"""

from sam_jax.training.config import default_config


def get_config(variant: str = "sam"):
  """Returns the config of "sam" or "sgd"."""
  if variant not in ("sam", "sgd"):
    raise ValueError(f"Unknown variant {variant!r}. Known: sam, sgd.")
  config = default_config()
  config.num_epochs = 30
  config.batch_size = 128
  config.model.name = "wrn10_2"
  config.dataset.name = "digits"
  config.dataset.label_noise.rate = 0.4
  config.augment.policy = "none"
  config.sam.rho = 0.5 if variant == "sam" else 0.0
  config.sam.m = 32
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 5e-4
  config.log_every_steps = 11  # an epoch
  config.checkpoint_every_epochs = 5
  return config
