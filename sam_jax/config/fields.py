"""Every field of a config: its default, its rule and its meaning in one row.

Defaults, validation, the command line, `--help_config` and the table in the
docs come from these rows. Rules that relate several fields are in
`relations.py`.
"""

from sam_jax.config.field_type import Field
from sam_jax.config.schedule_fields import schedule_fields

# Defaults are those of the paper where it has them.
FIELDS: dict[str, Field] = {
  "seed": Field(
    0,
    ge=0,
    lt=2**32,
    decides="run",
    help="Seed of initialization, data order, augmentation and dropout.",
  ),
  "num_epochs": Field(200, ge=1, is_argument=True, help="Epochs of training."),
  "batch_size": Field(256, ge=1, help="Examples of a step, over all devices."),
  # Another batch changes the last digits of the reported loss at most.
  "eval_batch_size": Field(
    None,
    int,
    ge=1,
    decides="nothing",
    help="Examples of an evaluation step; None: batch_size.",
  ),
  "loss": Field(
    "softmax",
    choices=("softmax", "sigmoid"),
    help="Cross-entropy of a softmax, or of a sigmoid for each class, summed.",
  ),
  "label_smoothing": Field(
    0.0,
    ge=0,
    le=1,
    is_argument=True,
    help="Weight of the uniform distribution in the targets.",
  ),
  "bootstrap.kind": Field(
    "none",
    choices=("none", "soft", "hard"),
    help="Mix targets with predictions (soft) or decisions (hard); Reed, 2015.",
  ),
  "bootstrap.beta": Field(
    None,
    float,
    ge=0,
    le=1,
    is_argument=True,
    help="Weight of the labels in this mix; None: 0.95 (soft) or 0.8 (hard).",
  ),
  "pretrained": Field(
    None,
    str,
    is_path=True,
    help="Weights to start from: a file of docs/pretrained.md or of"
    " sam_jax.convert, or the workdir of a run; None: random weights.",
  ),
  "model.name": Field(
    "wrn28_10", help="Network, such as wrn28_10 or resnet50."
  ),
  "model.options": Field(
    {}, help="Further options of the network's family, passed to create_model."
  ),
  "model.dtype": Field(
    "float32",
    choices=("float32", "bfloat16"),
    help="Type of the activations; parameters are float32 in any case.",
  ),
  "model.precision": Field(
    None,
    str,
    choices=("high", "highest"),
    help="Precision of float32 convolutions and matrix products: on a TPU three"
    " (high) or six (highest) passes in bfloat16, on a GPU float32. None: JAX's"
    " choice, one pass or TF32, as in google-research/sam. On CPUs all are the"
    " same.",
  ),
  "model.batch_norm": Field(
    None,
    str,
    choices=("m", "device", "all", "frozen"),
    help="Examples that share batch statistics: those that share a perturbation"
    " (m), of a device, all of a step, or none (frozen: running averages, for"
    " fine-tuning). None: frozen with `pretrained`, all for EfficientNets, else"
    " m.",
  ),
  "model.batch_norm_examples": Field(
    None,
    int,
    ge=1,
    help="Examples of a device that share batch statistics with"
    " model.batch_norm=device. A run records them: with others it would be"
    " another run. None: as many as a device has.",
  ),
  "model.dropout_rate": Field(
    None, float, ge=0, lt=1, help="Dropout; None: the network's own rate."
  ),
  "model.remat": Field(
    False, help="Recompute activations in the backward pass to save memory."
  ),
  "model.additional_skips": Field(
    None,
    bool,
    help="Shortcuts around the groups of wide ResNets, as in AutoAugment.",
  ),
  "model.normalization": Field(
    None,
    bool,
    help="False: wide ResNets without batch normalization, as in figure 3.",
  ),
  "dataset.name": Field(
    "cifar10",
    help="Data set, such as cifar10, or image_folder for files of your own.",
  ),
  "dataset.data_dir": Field(
    None,
    str,
    is_path=True,
    decides="nothing",
    per_host=True,
    help="Directory of the data sets; None: $TFDS_DATA_DIR or TFDS's default."
    " Of image_folder: the images, or a CSV file.",
  ),
  "dataset.validation_size": Field(
    0,
    ge=0,
    help="Training examples to hold out and to evaluate on; 0: evaluate on the"
    " test set. An image_folder without a test set then holds out a fifth.",
  ),
  "dataset.parts": Field(
    1, ge=1, help="Disjoint random parts that the training set is cut into."
  ),
  "dataset.part": Field(
    0, ge=0, decides="run", help="The part to train on, from 0 on."
  ),
  "dataset.split_seed": Field(
    0,
    ge=0,
    lt=2**32,
    help="Seed that chooses the examples which image_folder holds out.",
  ),
  "dataset.broken_images": Field(
    "refuse",
    choices=("refuse", "skip"),
    help="What image_folder does about files that can't be decoded.",
  ),
  "dataset.image_size": Field(
    None,
    int,
    ge=1,
    help="Side in pixels that the network sees; None: that of the images in"
    " memory or, for streamed images, that the network was designed for.",
  ),
  "dataset.normalization": Field(
    "statistics",
    choices=("statistics", "symmetric"),
    help="By the data set's mean and std; symmetric: 2 * pixel / 255 - 1.",
  ),
  "dataset.label_column": Field(
    None,
    str,
    help="Labels of cifar10_n or cifar100_n to train on, or label, the clean"
    " ones; None: worse_label or noise_label.",
  ),
  "dataset.label_file": Field(
    None,
    str,
    is_path=True,
    help="Training labels written by sam_jax.relabel; None: the data set's.",
  ),
  "dataset.label_file_noise_rate": Field(
    0.0,
    ge=0,
    le=1,
    decides="nothing",
    help="Noise rate that the network behind label_file was trained with; only"
    " reports read it.",
  ),
  "dataset.label_noise.rate": Field(
    0.0, ge=0, le=1, help="Fraction of the training labels to corrupt."
  ),
  "dataset.label_noise.kind": Field(
    "symmetric",
    choices=("symmetric", "symmetric_other", "asymmetric"),
    help="Draw from all classes, from the other classes, or by a map of similar"
    " classes of CIFAR-10.",
  ),
  "dataset.label_noise.seed": Field(
    0, ge=0, lt=2**32, decides="run", help="Seed of the corruption."
  ),
  "augment.policy": Field(
    "basic",
    choices=("none", "basic", "autoaugment", "aa-only", "randaugment"),
    help="basic: flips and crops; aa-only: AutoAugment without them. Streamed"
    " images are cropped at random, but at the center with none and aa-only.",
  ),
  "augment.cutout": Field(
    "none",
    choices=("none", "batch", "image"),
    help="Place to cut out: one for a batch, as officially, or for each image.",
  ),
  "augment.cutout_size": Field(16, ge=1, help="Side of the cutout in pixels."),
  "augment.mixup_alpha": Field(
    0.0, ge=0, help="Parameter of mixup's beta distribution; 0: no mixup."
  ),
  "augment.randaugment_layers": Field(
    2, ge=0, help="Operations that RandAugment applies to an image."
  ),
  "augment.randaugment_magnitude": Field(
    9, ge=0, help="Strength of RandAugment's operations."
  ),
  "augment.translate_const": Field(
    None,
    int,
    ge=0,
    help="Pixels of translation at level 10; None: the official 250 of"
    " AutoAugment and 100 of RandAugment.",
  ),
  "sam.method": Field(
    "sam",
    help="Method of sam_jax/methods.py, or package.module:function of your"
    " own.",
  ),
  "sam.options": Field({}, help="Hyperparameters of this method, by name."),
  "sam.rho": Field(
    0.05, ge=0, is_argument=True, help="Radius of the neighborhood; 0: no SAM."
  ),
  **schedule_fields("sam", "rho"),
  "sam.m": Field(
    None,
    int,
    ge=1,
    help="Examples that share a perturbation; None: those of a device.",
  ),
  "sam.p": Field(2.0, ge=1, may_be_inf=True, help="Norm of the neighborhood."),
  "sam.adaptive": Field(
    False, help="Scale the neighborhood by the parameters: ASAM."
  ),
  "sam.adaptive_mask": Field(
    "weights",
    choices=("weights", "kernels", "all"),
    help="Parameters that ASAM scales: all but biases, as in its authors' code;"
    " neither biases nor normalization; or all. A ViT's embeddings are biases.",
  ),
  "sam.eta": Field(0.01, ge=0, help="Offset of ASAM's scale abs(w) + eta."),
  "sam.ascent_steps": Field(1, ge=1, help="Steps of gradient ascent."),
  "sam.ascent_fraction": Field(
    1.0, gt=0, le=1, help="Part of a shard, 1/k, that the ascent is on."
  ),
  "sam.every": Field(
    1, ge=1, help="Perturb in every k-th step; the others are plain descent."
  ),
  "sam.mask": Field(
    "all",
    choices=("all", "norm", "no_norm"),
    help="Parameters that are perturbed: all; normalization only, SAM-ON; or"
    " neither normalization nor biases.",
  ),
  "sam.surrogate_gap": Field(
    0.0, ge=0, help="GSAM's alpha, the weight of the surrogate gap; 0: off."
  ),
  "sam.second_order": Field(
    False, help="Include the term with the Hessian that SAM drops."
  ),
  "sam.random_direction": Field(
    False, help="Perturb along a normal draw, not the gradient: figure 6."
  ),
  "optimizer.name": Field(
    "sgd",
    help="sgd, rmsprop (TensorFlow's variant), adamw, or any other optimizer of"
    " optax, such as lion.",
  ),
  "optimizer.options": Field(
    {}, help="Arguments of another optimizer of optax, by name."
  ),
  "optimizer.learning_rate": Field(
    0.1, ge=0, is_argument=True, help="Learning rate at its peak."
  ),
  **schedule_fields("optimizer", "learning_rate"),
  "optimizer.momentum": Field(
    0.9, ge=0, le=1, is_argument=True, help="Momentum of sgd and rmsprop."
  ),
  "optimizer.nesterov": Field(True, help="Nesterov's momentum in sgd."),
  "optimizer.rmsprop_decay": Field(
    0.9, ge=0, le=1, is_argument=True, help="Decay of rmsprop's second moments."
  ),
  "optimizer.rmsprop_eps": Field(
    1e-3, ge=0, is_argument=True, help="Constant below the root of rmsprop."
  ),
  "optimizer.weight_decay": Field(
    5e-4, ge=0, is_argument=True, help="Weight decay; 0: off."
  ),
  "optimizer.weight_decay_kind": Field(
    "l2",
    choices=("l2", "decoupled"),
    help="A term of the loss, or apart from the gradient.",
  ),
  "optimizer.weight_decay_on_norm": Field(
    True, help="False: spare biases and normalization parameters."
  ),
  "optimizer.gradient_clipping": Field(
    5.0,
    ge=0,
    is_argument=True,
    help="Largest global norm of the gradient, after averaging over devices; 0:"
    " off.",
  ),
  "ema.decay": Field(
    0.0,
    ge=0,
    le=1,
    is_argument=True,
    help="Moving average of the parameters to evaluate; 0: off.",
  ),
  "ema.warmup_steps": Field(
    1560, ge=0, is_argument=True, help="Steps before this average begins."
  ),
  # Part of the training step, which averages metrics over this many steps.
  "log_every_steps": Field(
    50,
    ge=1,
    decides="nothing",
    is_argument=True,
    help="Steps between lines of the training log.",
  ),
  "log_to": Field(
    (), decides="nothing", help="Further loggers, such as ('wandb', 'mlflow')."
  ),
  "eval_every_epochs": Field(
    1, ge=1, decides="nothing", help="Epochs between evaluations."
  ),
  "eval_on_train": Field(
    False,
    decides="nothing",
    help="Evaluate on the training set, too, without augmentation and noise.",
  ),
  "checkpoint_every_epochs": Field(
    1.0,
    gt=0,
    decides="nothing",
    help="Epochs between checkpoints; fractions are allowed.",
  ),
  "keep_checkpoints_at_epochs": Field(
    (),
    decides="nothing",
    help="Epochs whose checkpoints are kept, in addition to the last two.",
  ),
  "analysis.every_epochs": Field(
    0,
    ge=0,
    decides="nothing",
    help="Epochs between measurements of sharpness and curvature; 0: off.",
  ),
  "analysis.num_examples": Field(
    512,
    ge=1,
    decides="nothing",
    help="Training examples to measure on, the first ones.",
  ),
  "analysis.rho": Field(
    0.05, ge=0, decides="nothing", help="Radius of the measured sharpness."
  ),
  "analysis.m": Field(
    32, ge=1, decides="nothing", help="m of the measured m-sharpness."
  ),
  "analysis.lanczos_steps": Field(
    15, ge=1, decides="nothing", help="Hessian products of a measurement."
  ),
  "analysis.measures": Field(
    (), decides="nothing", help="Further measures, such as ('trace', 'rank')."
  ),
  "profile": Field(
    "",
    decides="nothing",
    help="START:STOP traces these steps for TensorBoard's profiler.",
  ),
  "notes": Field(
    "", decides="nothing", help="Free text that tells runs apart in reports."
  ),
  "variant": Field(
    "",
    decides="nothing",
    help="Config file and words that this config comes from, such as cifar:sgd;"
    " reports find the paper's number by it.",
  ),
  "compilation_cache_dir": Field(
    None,
    str,
    is_path=True,
    decides="nothing",
    per_host=True,
    help="Directory of compiled programs, which later runs reuse; None:"
    " ~/.cache/sam_jax/compiled or, on several processes, WORKDIR/compiled; '':"
    " off.",
  ),
}
