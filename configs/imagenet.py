"""ImageNet from scratch: table 2 of the paper, and EfficientNets.

Words after the colon, in any order; the first of each line is the default:

  resnet50, resnet101, resnet152, efficientnet_b0 ... efficientnet_b7
  100_epochs, 200_epochs, 400_epochs   of ResNets
  350_epochs                           of EfficientNets
  sam, sgd     sgd: without SAM (EfficientNets descend by RMSProp)
  tune         evaluate on a tenth of the training set

The paper reaches a top-1 error of 22.5% with the default words (22.9% with sgd)
and of 18.4% with resnet152 and 400_epochs (20.9% with sgd).

Baselines of table 2 have the epochs of their row: [INF] were they the better of
N and 2N, as on CIFAR, ResNet-50's 22.9 of 100 epochs would be the 22.3 of 200.

The paper has no EfficientNet trained from scratch. Of their recipe the official
SAM code has a part, tensorflow/tpu's EfficientNet the rest.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sam_jax import models
from sam_jax.config.common import set_descent, table_runs
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

RESNETS = ("resnet50", "resnet101", "resnet152")
EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(8))
RESNET_EPOCHS = ("100_epochs", "200_epochs", "400_epochs")

VARIANTS = Variants(
  model=(*RESNETS, *EFFICIENTNETS),
  epochs=(*RESNET_EPOCHS, "350_epochs"),
  method=("sam", "sgd"),
  options=("tune",),
  excluded=(
    *((model, "350_epochs") for model in RESNETS),
    *((model, e) for model in EFFICIENTNETS for e in RESNET_EPOCHS),
  ),
)


def get_config(variant: str = "") -> ConfigDict:
  """Return the config of some words."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.variant = f"imagenet:{words.text}"
  config.num_epochs = int(words.epochs.removesuffix("_epochs"))
  config.label_smoothing = 0.1
  config.model.name = words.model
  config.dataset.name = "imagenet2012"
  config.dataset.image_size = models.image_size(words.model)
  # [INF] a tenth, as for the other data sets.
  config.dataset.validation_size = 128_117 if words.tune else 0

  config.sam.rho = 0.05 if words.method == "sam" else 0.0
  # [INF] 4096 examples on 32 cores, each with its own perturbation. A fixed m
  # makes the result independent of the number of devices.
  config.sam.m = 128
  if words.model in RESNETS:
    set_resnet_recipe(config)
  else:
    set_efficientnet_recipe(config)
  return config


def set_resnet_recipe(config: ConfigDict) -> None:
  """Set the paper's recipe for ResNets."""
  config.batch_size = 4096
  config.augment.policy = "basic"  # Inception's crops, and a flip
  # The paper mentions no warm-up.
  set_descent(config, learning_rate=1.0, weight_decay=1e-4)


def set_efficientnet_recipe(config: ConfigDict) -> None:
  """Set the recipe for EfficientNets.

  "SAM code" is google-research/sam with the flags below. "TPU code" is
  tensorflow/tpu's EfficientNet, whose values the SAM code does not set itself.
  """
  config.batch_size = 2048  # TPU code
  # SAM code: all devices share batch statistics, here of the whole batch on 16
  # devices or more. Fewer have several shards each, one after the other, and
  # share those of one shard each.
  config.model.batch_norm = "all"
  config.augment.policy = "randaugment"  # SAM code, its "autoaugment"
  config.augment.randaugment_layers = 2  # SAM code
  config.augment.randaugment_magnitude = 9  # SAM code
  config.optimizer.name = "rmsprop"  # both; SAM code: --use_rmsprop
  config.optimizer.learning_rate = 0.016 * 2048 / 256  # TPU code
  # SAM code: --lr_schedule=exponential falls to 1.2% in the end, smoothly; TPU
  # code: by 3% every 2.4 epochs.
  config.optimizer.schedule = "exponential"
  config.optimizer.warmup_epochs = 5  # TPU code; SAM code divides by its 0
  config.optimizer.momentum = 0.9  # both
  config.optimizer.rmsprop_decay = 0.9  # both
  config.optimizer.rmsprop_eps = 1e-3  # both
  config.optimizer.weight_decay = 1e-5  # TPU code
  # TPU code spares normalization; SAM code with --no_weight_decay_on_bn.
  config.optimizer.weight_decay_on_norm = False
  # From the SAM code; the paper does not mention clipping.
  config.optimizer.gradient_clipping = 5.0
  config.ema.decay = 0.9999  # TPU code; SAM code's --ema_decay is 0


def sweep(variant: str = "") -> Iterator[dict[str, Any]]:
  """Yield five seeds of each variant, or the grid of rho for "tune"."""
  return table_runs(VARIANTS, variant)
