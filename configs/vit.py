"""ViTs and MLP-Mixers from scratch: Chen et al. (2022) and GSAM.

Words after the colon, in any order; the first of each line is the default:

  vit_b16, vit_b32, vit_s16, vit_s32, vit_ti16,
  mixer_b16, mixer_b32, mixer_s16, mixer_s32   on ImageNet
  vit_nano, mixer_nano                         on small images, for laptops
  imagenet, digits, fashion_mnist, cifar10
  sam, gsam, adamw   all descend by AdamW; adamw: without SAM

GSAM's ViTs on ImageNet have the loss and the network of big_vision: the
cross-entropy of a sigmoid for each class, with a bias of -10 at the start, and
the average of all tokens (`vit_b32_gap`). All others have the cross-entropy of
a softmax, and ViTs an additional token to classify. big_vision trains on 99% of
the training images, the configs here on all.

Chen et al. report a top-1 error of 20.1% with the default words and of 25.4%
with adamw; of 22.6% and 33.6% with mixer_b16. GSAM's authors report 23.2% with
vit_b32,gsam.

- Chen et al.: "When Vision Transformers Outperform ResNets without Pre-training
  or Strong Data Augmentations", ICLR 2022, https://arxiv.org/abs/2106.01548.
- Zhuang et al.: "Surrogate Gap Minimization Improves Sharpness-Aware Training",
  ICLR 2022, https://arxiv.org/abs/2203.08065. "big_vision" is its public recipe
  for ViT-B/32, configs/proj/gsam/vit_i1k_gsam_no_aug.py.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.common import table_runs
from sam_jax.config.schema import default_config
from sam_jax.config.variants import Variants

# rho of Chen et al., and rho_max, rho_min and alpha of GSAM. [M] all but GSAM's
# for vit_b32, which are big_vision's; [INF] vit_ti16, which neither paper has.
RECIPES = {
  "vit_b16": (0.2, (0.6, 0.2, 0.4)),
  "vit_b32": (0.15, (0.6, 0.1, 0.6)),
  "vit_s16": (0.1, (0.6, 0.0, 1.0)),
  "vit_s32": (0.05, (0.6, 0.0, 0.4)),
  "vit_ti16": (0.05, (0.6, 0.0, 0.4)),
  "mixer_b16": (0.6, (0.5, 0.2, 0.01)),
  "mixer_b32": (0.35, (0.7, 0.2, 0.05)),
  "mixer_s16": (0.15, (0.5, 0.0, 0.6)),
  "mixer_s32": (0.1, (0.5, 0.0, 0.2)),
}
NANO = ("vit_nano", "mixer_nano")
SMALL = ("digits", "fashion_mnist", "cifar10")
WARMUP_STEPS = 10_000  # big_vision

VARIANTS = Variants(
  model=(*RECIPES, *NANO),
  dataset=("imagenet", *SMALL),
  method=("sam", "gsam", "adamw"),
  excluded=(
    *((model, "imagenet") for model in NANO),
    *((model, data) for model in RECIPES for data in SMALL),
  ),
)


def get_config(variant: str = "") -> ConfigDict:
  """Return the config of some words."""
  words = VARIANTS.parse(variant)
  config = default_config()
  config.variant = f"vit:{words.text}"
  config.model.name = words.model
  # Chen et al.: the preprocessing of Inception, here a crop and a flip.
  config.augment.policy = "basic"
  config.dataset.normalization = "symmetric"  # big_vision
  config.optimizer.name = "adamw"
  # A factor of the learning rate: big_vision decays by 0.001, which stands for
  # 0.3 * 0.003. Only kernels decay there, too.
  config.optimizer.weight_decay_kind = "decoupled"
  config.optimizer.weight_decay_on_norm = False
  config.optimizer.gradient_clipping = 1.0  # big_vision
  if words.dataset == "imagenet":
    set_imagenet_recipe(config, words.method)
  else:
    set_small_recipe(config, words.dataset, words.method)
  return config


def set_imagenet_recipe(config: ConfigDict, method: str) -> None:
  """Set the recipe of both papers."""
  name = config.model.name
  rho, (rho_max, rho_min, alpha) = RECIPES[name]
  config.dataset.name = "imagenet2012"
  config.dataset.image_size = 224
  config.num_epochs = 300  # big_vision
  config.batch_size = 4096  # big_vision
  # [INF] 4096 examples on 64 cores: perturbations are those of a device in
  # big_vision. A fixed m makes the result independent of their number.
  config.sam.m = 64
  config.optimizer.learning_rate = 0.003  # big_vision
  config.optimizer.weight_decay = 0.3  # big_vision, of the paper
  warmup_epochs = WARMUP_STEPS / (1_281_167 // config.batch_size)
  set_schedule(config, warmup_epochs)
  if method == "gsam":
    set_gsam(config, rho_max, rho_min, alpha)
    if name.startswith("vit"):  # big_vision
      config.model.name += "_gap"
      config.model.options.head_bias = -10.0
      config.loss = "sigmoid"
    return
  config.sam.rho = rho if method == "sam" else 0.0
  # [M] of Chen et al.: cosine for ViTs, linear for Mixers. Dropout is that of
  # the ViT paper; google-research's Mixers have none.
  if name.startswith("vit"):
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate_min = None  # 0
    config.model.dropout_rate = 0.1


def set_small_recipe(config: ConfigDict, dataset: str, method: str) -> None:
  """Set a recipe of our own for images of a few pixels.

  On digits, the batch, the learning rate and rho of `sam` were chosen for
  vit_nano on 300 held-out images with one seed; nothing else is tuned.
  """
  is_digits = dataset == "digits"
  config.model.name += "2" if is_digits else "4"
  config.dataset.name = dataset
  config.augment.policy = "none" if is_digits else "basic"
  config.num_epochs = 30 if is_digits else 100
  config.batch_size = 32 if is_digits else 128
  config.sam.m = 32
  config.optimizer.learning_rate = 0.001 if is_digits else 0.002
  config.optimizer.weight_decay = 0.1
  set_schedule(config, warmup_epochs=config.num_epochs / 10)
  if is_digits:
    config.log_every_steps = 44  # an epoch
    config.checkpoint_every_epochs = 10
  if method == "gsam":
    set_gsam(config, rho_max=0.2, rho_min=0.02, alpha=0.2)
  else:
    rho = 0.05 if is_digits else 0.1
    config.sam.rho = rho if method == "sam" else 0.0


def set_schedule(config: ConfigDict, warmup_epochs: float) -> None:
  """Set big_vision's learning rate: up, then linearly down to 1% of the peak.

  Args:
    config: Config to change; its `num_epochs` and peak are set.
    warmup_epochs: Epochs in which the learning rate rises from 0.
  """
  config.optimizer.warmup_epochs = warmup_epochs
  config.optimizer.schedule = "linear"
  config.optimizer.schedule_start = warmup_epochs / config.num_epochs
  lowest = 0.01 * config.optimizer.learning_rate
  config.optimizer.learning_rate_min = lowest


def set_gsam(
  config: ConfigDict, rho_max: float, rho_min: float, alpha: float
) -> None:
  """Set GSAM, whose rho follows the learning rate from rho_max to rho_min."""
  config.sam.method = "gsam"
  config.sam.rho = rho_max
  config.sam.schedule = "learning_rate"
  config.sam.rho_min = rho_min
  config.sam.surrogate_gap = alpha


def sweep(variant: str = "") -> Iterator[dict[str, Any]]:
  """Yield five seeds of each variant."""
  return table_runs(VARIANTS, variant)
