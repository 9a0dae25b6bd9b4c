"""One training step and one evaluation step, seen from one device.

Both are pure functions against the axis *name* `AXIS`, so that `jax.pmap`,
`jax.shard_map(check_vma=False)` and `jax.vmap` run them alike.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from sam_jax.training import losses
from sam_jax.training.optimizer import update_ema
from sam_jax.training.state import Metrics, TrainState

AXIS = "batch"
METRICS = (
  "loss",
  "error_rate",
  "sam_loss",
  "sharpness",
  "gradient_norm",
  "sam_gradient_norm",
  "perturbation_norm",
  "gradient_cosine",
  "param_norm",
  "learning_rate",
)

# Of data sets whose training labels may be wrong: the error on the labels as
# given, where they are right and where they are not.
NOISE_METRICS = ("error_rate_on_correct_labels", "error_rate_on_wrong_labels")

Batch = dict[str, jax.Array]

_STREAMS = ("init", "dropout", "augment")


def random_stream(seed: int, purpose: str) -> jax.Array:
  """Returns the random key of a purpose: "init", "dropout" or "augment"."""
  return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(purpose))


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What a step does, as opposed to the state that it does it to."""

  model: nn.Module
  sharpness: optax.GradientTransformationExtraArgs
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  seed: int
  uses_sam: bool
  ascent_steps: int = 1
  sam_every: int = 1
  freezes_batch_stats: bool = False
  micro_shards: int = 1
  label_smoothing: float = 0.0
  bootstrap: str = "none"
  bootstrap_beta: float | None = None
  noisy_labels: bool = False  # batches tell labels that are wrong
  l2: float = 0.0  # weight decay inside the loss
  l2_on_norm: bool = True
  ema_decay: float = 0.0
  ema_warmup_steps: int = 0
  log_every_steps: int = 1


def create_state(recipe: Recipe, image_shape: tuple[int, ...]) -> TrainState:
  """Initialises the state of a run from the recipe's seed.

  Args:
    recipe: The recipe.
    image_shape: (height, width, channels) of an example.

  Returns:
    The state at step 0.
  """

  @jax.jit
  def init(key):
    images = jnp.zeros((1, *image_shape))
    variables = recipe.model.init({"params": key}, images, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    averaged = {"params": params, "batch_stats": batch_stats}
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=batch_stats,
      sam_state=recipe.sharpness.init(params),
      opt_state=recipe.optimizer.init(params),
      ema=averaged if recipe.ema_decay > 0 else {},
      metrics=Metrics.empty(_metric_names(recipe)),
    )

  return init(random_stream(recipe.seed, "init"))


def train_step(
  state: TrainState, batch: Batch, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one optimizer step.

  Args:
    state: The same on every device.
    batch: This device's `image` float [N, H, W, C] and `target` float
      [N, classes]; N is a multiple of the micro-shards. With noisy labels
      also `clean_label` int [N].
    recipe: The recipe.

  Returns:
    The new state and the means of the metrics since the last log line (and
    `diverged_at`), both the same on every device.
  """
  sam_states, shard = _mean_over_micro_shards(
    lambda shard_batch, index: _shard_gradient(
      state, shard_batch, index, recipe
    ),
    batch,
    recipe.micro_shards,
  )
  # The mean of running averages is the running average of means: statistics
  # travel with the gradient, in one all-reduce.
  shard = jax.lax.pmean(shard, AXIS)
  updates, opt_state = recipe.optimizer.update(
    shard["gradient"], state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  batch_stats = shard["batch_stats"]
  if recipe.freezes_batch_stats:  # to the last bit, which a mean may change
    batch_stats = state.batch_stats
  sam_state = sam_states._replace(**shard["sam_scalars"])
  metrics = _accumulate(state, shard, sam_state, params, recipe)
  new_state = TrainState(
    step=state.step + 1,
    params=params,
    batch_stats=batch_stats,
    sam_state=sam_state,
    opt_state=opt_state,
    ema=_new_ema(state, params, batch_stats, recipe),
    metrics=metrics,
  )
  return new_state, {**metrics.means(), "diverged_at": metrics.diverged_at}


def _shard_gradient(state, batch, index, recipe):
  """Sharpness-aware gradient of one shard: the examples of one perturbation.

  Batch statistics and metrics are those of the first pass, at w; the second
  pass, at w + eps, sees the same batch, the same random key and the same
  incoming statistics, and leaves nothing but its gradient and loss.

  Returns:
    The new state of the transformation, and a tree of floats to average.
  """
  stream = random_stream(recipe.seed, "dropout")
  step_key = jax.random.fold_in(stream, state.step)
  position = jax.lax.axis_index(AXIS) * recipe.micro_shards + index
  key = jax.random.fold_in(step_key, position)

  def loss_fn(params, true_gradient):
    logits, updated = recipe.model.apply(
      {"params": params, "batch_stats": state.batch_stats},
      batch["image"],
      train=True,
      true_gradient=true_gradient,
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )
    targets = losses.smooth_labels(batch["target"], recipe.label_smoothing)
    targets = losses.bootstrap_targets(
      logits, targets, recipe.bootstrap, recipe.bootstrap_beta
    )
    loss = jnp.mean(losses.cross_entropy(logits, targets))
    penalty = losses.l2_penalty(params, recipe.l2, recipe.l2_on_norm)
    return loss + penalty, (loss, logits, updated.get("batch_stats", {}))

  gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def sam_loss_and_gradient(params, ascent_step):
    # Every pass draws the same masks. All but the last one look for a maximum
    # of the loss; the last one's gradient is the one to descend along.
    climbs = ascent_step < recipe.ascent_steps - 1
    (_, (loss, _, _)), gradient = gradient_fn(params, climbs)
    return loss, gradient

  (_, (loss, logits, batch_stats)), gradient = _first_pass(
    gradient_fn, state, recipe
  )
  gradient, sam_state = recipe.sharpness.update(
    gradient, state.sam_state, state.params, grad_fn=sam_loss_and_gradient
  )
  labels = jnp.argmax(batch["target"], axis=-1)
  errors = losses.top_k_error(logits, labels, 1)
  wrong = jnp.zeros_like(errors)
  if recipe.noisy_labels:
    wrong = (labels != batch["clean_label"]).astype(jnp.float32)
  scalars = sam_state._asdict()
  del scalars["count"]
  return sam_state, {
    "gradient": gradient,
    "batch_stats": batch_stats,
    "sam_scalars": scalars,
    "loss": loss,
    "error_rate": jnp.mean(errors),
    "wrong_rate": jnp.mean(wrong),
    "error_rate_if_wrong": jnp.mean(errors * wrong),
  }


def _first_pass(gradient_fn, state, recipe):
  """The pass at w: of the true gradient where SAM climbs along it."""
  if not recipe.uses_sam or recipe.sam_every == 1:
    return gradient_fn(state.params, recipe.uses_sam)
  return jax.lax.cond(
    state.sam_state.count % recipe.sam_every == 0,
    lambda: gradient_fn(state.params, True),
    lambda: gradient_fn(state.params, False),
  )


def _mean_over_micro_shards(
  shard_fn: Callable[[Batch, Any], tuple[Any, Any]], batch: Batch, count: int
) -> tuple[Any, Any]:
  """Runs `shard_fn` on `count` equal parts of a batch, and averages.

  Returns:
    The first result of the last part, and the mean of the second results.
  """
  if count == 1:
    return shard_fn(batch, 0)
  parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)

  def accumulate(sums, part_and_index):
    first, second = shard_fn(*part_and_index)
    return jax.tree.map(jnp.add, sums, second), first

  shapes = jax.eval_shape(
    lambda parts: shard_fn(jax.tree.map(lambda x: x[0], parts), 0)[1], parts
  )
  sums, firsts = jax.lax.scan(
    accumulate,
    jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
    (parts, jnp.arange(count)),
    # XLA runs convolutions inside a loop about 8 times slower on CPU.
    unroll=jax.default_backend() == "cpu",
  )
  last = jax.tree.map(lambda x: x[-1], firsts)
  return last, jax.tree.map(lambda x: x / count, sums)


def _accumulate(state, shard, sam_state, params, recipe) -> Metrics:
  """Adds this step's scalars to those since the last log line."""
  starts_anew = state.step % recipe.log_every_steps == 0
  empty = Metrics.empty(_metric_names(recipe))
  empty = empty.replace(diverged_at=state.metrics.diverged_at)
  metrics = jax.tree.map(
    lambda new, old: jnp.where(starts_anew, new, old), empty, state.metrics
  )
  sam_loss = sam_state.perturbed_value
  is_perturbed = ~jnp.isnan(sam_loss)
  values = {
    "loss": shard["loss"],
    "error_rate": shard["error_rate"],
    "sam_loss": sam_loss,
    "sharpness": sam_loss - shard["loss"],
    "gradient_norm": sam_state.gradient_norm,
    "sam_gradient_norm": optax.tree.norm(shard["gradient"]),
    "perturbation_norm": sam_state.perturbation_norm,
    "gradient_cosine": sam_state.cosine,
    "param_norm": optax.tree.norm(params),
    "learning_rate": recipe.schedule(state.step),
  }
  is_measured = dict.fromkeys(
    ("sam_loss", "sharpness", "perturbation_norm", "gradient_cosine"),
    is_perturbed,
  )
  if recipe.noisy_labels:
    wrong, errors = shard["wrong_rate"], shard["error_rate_if_wrong"]
    correct = 1 - wrong
    values |= {
      NOISE_METRICS[0]: (shard["error_rate"] - errors) / correct,
      NOISE_METRICS[1]: errors / wrong,
    }
    is_measured |= {NOISE_METRICS[0]: correct > 0, NOISE_METRICS[1]: wrong > 0}
  return metrics.add(state.step, values, is_measured)


def _metric_names(recipe: Recipe) -> tuple[str, ...]:
  return METRICS + (NOISE_METRICS if recipe.noisy_labels else ())


def _new_ema(state, params, batch_stats, recipe):
  if recipe.ema_decay == 0:
    return {}
  return update_ema(
    state.ema,
    {"params": params, "batch_stats": batch_stats},
    state.step + 1,
    recipe.ema_decay,
    recipe.ema_warmup_steps,
  )


def eval_step(
  variables: dict[str, Any],
  batch: Batch,
  model: nn.Module,
  normalise: Callable[[jax.Array], jax.Array],
) -> dict[str, jax.Array]:
  """Sums of loss and errors over the examples of all devices.

  Args:
    variables: {"params", "batch_stats"}, the same on every device.
    batch: This device's `image` uint8 [N, H, W, C], `label` int [N] and `mask`
      float [N]: 1 for examples, 0 for padding.
    model: The network.
    normalise: uint8 images -> float images.

  Returns:
    float32 scalars `count`, `loss`, `error_rate` and, with more than 5 classes,
    `top_5_error_rate`: sums, to be divided by the total count.
  """
  logits = model.apply(variables, normalise(batch["image"]), train=False)
  num_classes = logits.shape[-1]
  labels, mask = batch["label"], batch["mask"]
  targets = jax.nn.one_hot(labels, num_classes)
  values = {
    "count": jnp.ones_like(mask),
    "loss": losses.cross_entropy(logits, targets),
    "error_rate": losses.top_k_error(logits, labels, 1),
  }
  if num_classes > 5:
    values["top_5_error_rate"] = losses.top_k_error(logits, labels, 5)
  sums = {name: jnp.sum(value * mask) for name, value in values.items()}
  return jax.lax.psum(sums, AXIS)
