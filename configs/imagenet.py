"""ImageNet from scratch: table 2 of the paper, and EfficientNets.

Words after the colon, in any order; the first of each line is the default:

  resnet50, resnet101, resnet152, efficientnet_b0 ... efficientnet_b7
  100_epochs, 200_epochs, 400_epochs   of ResNets
  350_epochs                           of EfficientNets
  sam, sgd     sgd: without SAM (EfficientNets descend by RMSProp)
  tune         evaluate on a tenth of the training set

Baselines of table 2 have the epochs of their row: [INF] were they the better of
N and 2N, as on CIFAR, ResNet-50's 22.9 of 100 epochs would be the 22.3 of 200.

The paper has no EfficientNet trained from scratch. Of their recipe the official
SAM code has a part, tensorflow/tpu's EfficientNet the rest.
"""

from sam_jax import models
from sam_jax.config.paper_tables import name_cell, table_runs
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

# Table 2: top-1 and top-5 error with SAM, and without, in percent.
ERRORS = {
  ("resnet50", "100_epochs"): (
    ("22.5 ± 0.1", "6.28 ± 0.08"),
    ("22.9 ± 0.1", "6.62 ± 0.11"),
  ),
  ("resnet50", "200_epochs"): (
    ("21.4 ± 0.1", "5.82 ± 0.03"),
    ("22.3 ± 0.1", "6.37 ± 0.04"),
  ),
  ("resnet50", "400_epochs"): (
    ("20.9 ± 0.1", "5.51 ± 0.03"),
    ("22.3 ± 0.1", "6.40 ± 0.06"),
  ),
  ("resnet101", "100_epochs"): (
    ("20.2 ± 0.1", "5.12 ± 0.03"),
    ("21.2 ± 0.1", "5.66 ± 0.05"),
  ),
  ("resnet101", "200_epochs"): (
    ("19.4 ± 0.1", "4.76 ± 0.03"),
    ("20.9 ± 0.1", "5.66 ± 0.04"),
  ),
  ("resnet101", "400_epochs"): (
    ("19.0 ± <0.01", "4.65 ± 0.05"),
    # [INF] a misprint: it looks like a row of ResNet-50.
    ("22.3 ± 0.1", "6.41 ± 0.06"),
  ),
  ("resnet152", "100_epochs"): (
    ("19.2 ± <0.01", "4.69 ± 0.04"),
    ("20.4 ± <0.0", "5.39 ± 0.06"),
  ),
  ("resnet152", "200_epochs"): (
    ("18.5 ± 0.1", "4.37 ± 0.03"),
    ("20.3 ± 0.2", "5.39 ± 0.07"),
  ),
  ("resnet152", "400_epochs"): (
    ("18.4 ± <0.01", "4.35 ± 0.04"),
    ("20.9 ± <0.0", "5.84 ± 0.07"),
  ),
}


def get_config(variant: str = ""):
  """Returns the config of the words given."""
  words = VARIANTS.parse(variant)
  config = default_config()
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

  # From the official code; the paper does not mention clipping.
  config.optimizer.gradient_clipping = 5.0
  if words.model in RESNETS:
    set_resnet_recipe(config)
    name_papers_cell(config, words)
  else:
    set_efficientnet_recipe(config)
  return config


def set_resnet_recipe(config) -> None:
  """The paper's recipe for ResNets."""
  config.batch_size = 4096
  config.augment.policy = "basic"  # Inception's crops, and a flip
  config.optimizer.learning_rate = 1.0
  config.optimizer.weight_decay = 1e-4
  config.optimizer.schedule = "cosine"  # the paper mentions no warm-up
  config.optimizer.momentum = 0.9
  # From the official code; the paper says "momentum".
  config.optimizer.nesterov = True


def set_efficientnet_recipe(config) -> None:
  """The EfficientNets' recipe.

  "SAM code": what google-research/sam has, at the flags named. "TPU code":
  tensorflow/tpu's EfficientNet, which it does not turn on by itself.
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
  # TPU code spares normalisation; SAM code with --no_weight_decay_on_bn.
  config.optimizer.weight_decay_on_norm = False
  config.ema.decay = 0.9999  # TPU code; SAM code's --ema_decay is 0


def name_papers_cell(config, words) -> None:
  """Notes the number of table 2; results on held-out data have none."""
  if words.tune:
    return
  errors = ERRORS[words.model, words.epochs][words.method == "sgd"]
  cell = f"{words.model}, {words.epochs}, {words.method}"
  name_cell(config, "2", cell, *errors)


def sweep(variant: str = ""):
  """Five seeds of every variant with these words; tune: the grid of rho."""
  return table_runs(VARIANTS, variant)
