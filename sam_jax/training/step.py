"""One training step and one evaluation step, as one device sees them.

Both are pure functions against the axis name `AXIS`: `jax.pmap`,
`jax.shard_map(check_vma=False)` and `jax.vmap` run them alike.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from sam_jax.arguments import is_traced
from sam_jax.one_gradient import gradient_point
from sam_jax.reductions import norm
from sam_jax.runs.compilation import quick_compilation
from sam_jax.sam import is_sam_step
from sam_jax.training import losses
from sam_jax.training.microbatches import map_floats, mean_over_microbatches
from sam_jax.training.parallel import AXIS
from sam_jax.training.state import Metrics, TrainState

Batch = dict[str, jax.Array]

# Metrics of every step. They must be finite.
_ALWAYS = (
  "loss",
  "error_rate",
  "sam_gradient_norm",
  "param_norm",
  "learning_rate",
)
# Metrics that some steps, methods or data sets do not have: nan.
_SOMETIMES = (
  "rho",
  "sam_loss",
  "sharpness",
  "gradient_norm",
  "perturbation_norm",
  "gradient_cosine",
  # The error on the given labels, where they are right and where not.
  "error_rate_on_correct_labels",
  "error_rate_on_wrong_labels",
)
METRICS = _ALWAYS + _SOMETIMES

_STREAMS = ("init", "dropout", "augment", "perturbation")


def random_stream(seed: int | jax.Array, purpose: str) -> jax.Array:
  """Return the random key of a purpose.

  Args:
    seed: The seed of a run, or the random key that stands for it.
    purpose: One of `_STREAMS`.
  """
  key = jax.random.key(seed) if isinstance(seed, int) else seed
  return jax.random.fold_in(key, _STREAMS.index(purpose))


@dataclasses.dataclass(frozen=True)
class Parts:
  """The functions that a training step consists of; `build.parts` makes them.

  Attributes:
    model: The network.
    loss_fn: (params, logits, targets) -> the objective and its part without
      regularization, float32 ().
    sharpness: The gradient of one shard -> its sharpness-aware gradient.
    optimizer: The mean over all shards -> updates.
    learning_rate: Step -> learning rate, for the logs.
    rho: Radius of the neighborhood, or a schedule.
    ascent_steps: Steps of ascent.
    every: SAM perturbs every `every`-th step.
    ascent_stride: The ascent is on every k-th example of a shard.
    num_microbatches: Shards of each device.
    unrolls_microbatches: Compile a copy of the passes for each of them.
    dropout_key: Random key of the run's dropout.
    freezes_batch_stats: Batch statistics never change.
    update_ema: (averages, values, step) -> averages; None for no averages.
    log_every_steps: Steps over which metrics are averaged.
  """

  model: nn.Module
  loss_fn: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
  sharpness: optax.GradientTransformationExtraArgs
  optimizer: optax.GradientTransformation
  learning_rate: optax.Schedule
  dropout_key: jax.Array
  rho: optax.ScalarOrSchedule
  ascent_steps: int = 1
  every: int = 1
  ascent_stride: int = 1
  num_microbatches: int = 1
  unrolls_microbatches: bool = False
  freezes_batch_stats: bool = False
  update_ema: Callable[[Any, Any, jax.Array], Any] | None = None
  log_every_steps: int = 1


def create_state(
  parts: Parts, image_shape: tuple[int, ...], seed: int
) -> TrainState:
  """Return the state at step 0.

  Args:
    parts: The parts of the step.
    image_shape: (height, width, channels) of an example.
    seed: Seed of the run.
  """

  def init(key):
    images = jnp.zeros((1, *image_shape))
    variables = parts.model.init({"params": key}, images, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    averaged = {"params": params, "batch_stats": batch_stats}
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=batch_stats,
      sam_state=parts.sharpness.init(params),
      opt_state=parts.optimizer.init(params),
      ema=averaged if parts.update_ema else {},
      metrics=Metrics.empty(METRICS),
    )

  key = random_stream(seed, "init")
  options = {} if is_traced(key) else quick_compilation()
  return jax.jit(init, compiler_options=options)(key)


def train_step(
  state: TrainState, batch: Batch, parts: Parts
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Take one optimizer step.

  This is the chain sharpness_aware -> mean_across -> optimizer of
  `sam_jax.sam`, except that a device may have several shards, and that batch
  statistics and metrics are averaged in the same all-reduce as the gradient.

  Args:
    state: The same on every device.
    batch: This device's `image` float [N, H, W, C] and `target` float
      [N, classes]; N is a multiple of the microbatches. With labels that may be
      wrong also `clean_label` int [N].
    parts: The parts of the step.

  Returns:
    The new state and the means of the metrics since the last log line (and
    `diverged_at`), both the same on every device.
  """
  shard = mean_over_microbatches(
    lambda batch, index: _shard_step(state, batch, index, parts),
    batch,
    parts.num_microbatches,
    unroll=parts.unrolls_microbatches,
  )
  # The mean of running averages is the running average of means: statistics
  # travel with the gradient.
  shard = map_floats(lambda floats: jax.lax.pmean(floats, AXIS), shard)
  # Clip after averaging, inside the optimizer.
  updates, opt_state = parts.optimizer.update(
    shard["gradient"], state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  batch_stats = shard["batch_stats"]
  if parts.freezes_batch_stats:  # to the last bit, which a mean may change
    batch_stats = state.batch_stats
  ema = {}
  if parts.update_ema:
    averaged = {"params": params, "batch_stats": batch_stats}
    ema = parts.update_ema(state.ema, averaged, state.step + 1)
  metrics = _accumulate(state, shard, params, parts)
  new_state = TrainState(
    step=state.step + 1,
    params=params,
    batch_stats=batch_stats,
    sam_state=shard["sam_state"],
    opt_state=opt_state,
    ema=ema,
    metrics=metrics,
  )
  return new_state, {**metrics.means(), "diverged_at": metrics.diverged_at}


def _shard_step(state, batch, index, parts) -> dict[str, Any]:
  """Return the sharpness-aware gradient of one shard, and its other means.

  A shard is the examples of one perturbation. Batch statistics and metrics are
  those of the first pass, at w unless a method chooses another point; a pass at
  w + eps after it leaves only its gradient and loss.
  """
  value_and_grad = _value_and_grad_fn(state, batch, index, parts)
  point = gradient_point(parts.sharpness, state.sam_state, state.params)

  def grad_fn(params, ascent_step):
    # Only the gradient of the last pass is one to descend along.
    is_ascent = ascent_step < parts.ascent_steps - 1
    (_, (loss, _, _)), gradient = value_and_grad(params, is_ascent)
    return loss, gradient

  # The only gradient of a step is one to descend along.
  is_ascent = point is state.params and is_sam_step(
    state.step, parts.rho, parts.every
  )
  (_, (loss, error_rates, batch_stats)), gradient = _either(
    is_ascent, lambda is_ascent: value_and_grad(point, is_ascent)
  )
  gradient, sam_state = parts.sharpness.update(
    gradient, state.sam_state, state.params, grad_fn=grad_fn
  )
  return {
    "gradient": gradient,
    "batch_stats": batch_stats,
    "sam_state": sam_state,
    "loss": loss,
    **error_rates,
  }


def _value_and_grad_fn(state, batch, index, parts):
  """Build (params, is_ascent) -> (objective, aux), gradient of one shard.

  Every pass over the shard has the same random key and the same incoming batch
  statistics. Passes of the ascent may leave out examples: they take every k-th
  one, as on any number of devices.
  """
  step_key = jax.random.fold_in(parts.dropout_key, state.step)
  shard = jax.lax.axis_index(AXIS) * parts.num_microbatches + index
  key = jax.random.fold_in(step_key, shard)

  def loss_fn(params, is_ascent):
    stride = parts.ascent_stride if is_ascent else 1
    examples = batch
    if stride > 1:
      examples = jax.tree.map(lambda x: x[::stride], batch)
    logits, updated = parts.model.apply(
      {"params": params, "batch_stats": state.batch_stats},
      examples["image"],
      train=True,
      # SAM climbs along the true gradient of shake layers, and descends along
      # the random one that trains them.
      true_gradient=is_ascent,
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )
    objective, loss = parts.loss_fn(params, logits, examples["target"])
    error_rates = _error_rates(logits, examples)
    return objective, (loss, error_rates, updated.get("batch_stats", {}))

  return jax.value_and_grad(loss_fn, has_aux=True)


def _error_rates(logits, batch):
  """Return error rates of one shard, also of labels that are wrong."""
  labels = jnp.argmax(batch["target"], axis=-1)
  errors = losses.top_k_error(logits, labels, 1)
  rates = {"error_rate": jnp.mean(errors)}
  if "clean_label" in batch:
    wrong = (labels != batch["clean_label"]).astype(jnp.float32)
    rates["wrong_rate"] = jnp.mean(wrong)
    rates["error_rate_if_wrong"] = jnp.mean(errors * wrong)
  return rates


def _either(condition, fn):
  """Return fn(True) or fn(False), with one of them traced if that is known."""
  if isinstance(condition, bool):
    return fn(condition)
  return jax.lax.cond(condition, lambda: fn(True), lambda: fn(False))


def _accumulate(state, shard, params, parts) -> Metrics:
  """Add this step's scalars to those since the last log line."""
  is_new_interval = state.step % parts.log_every_steps == 0
  empty = Metrics.empty(METRICS)
  empty = empty.replace(diverged_at=state.metrics.diverged_at)
  metrics = jax.tree.map(
    lambda new, old: jnp.where(is_new_interval, new, old), empty, state.metrics
  )
  values = {
    "loss": shard["loss"],
    "error_rate": shard["error_rate"],
    "sam_gradient_norm": norm(shard["gradient"]),
    "param_norm": norm(params),
    "learning_rate": parts.learning_rate(state.step),
    "rho": _radius(parts.rho, state.step),
    **_perturbation_metrics(shard),
    **_noise_metrics(shard),
  }
  is_measured = {name: ~jnp.isnan(values[name]) for name in _SOMETIMES}
  return metrics.add(state.step, values, is_measured)


def _radius(rho: optax.ScalarOrSchedule, step: jax.Array) -> jax.Array:
  """Return the radius of a step; nan for runs without SAM."""
  if callable(rho):
    rho = rho(step)
  elif not is_traced(rho) and rho == 0:
    rho = jnp.nan
  return jnp.asarray(rho, jnp.float32)


def _perturbation_metrics(shard):
  """Read the scalars that a method keeps in its state, whatever its type.

  Of several states in a chain, the first that has a scalar counts.
  """
  nan = jnp.full((), jnp.nan, jnp.float32)

  def scalar(name, default=nan):
    found = optax.tree.get_all_with_path(shard["sam_state"], name)
    return jnp.asarray(found[0][1], jnp.float32) if found else default

  loss = scalar("perturbed_value")
  # A plain step between those of SAM has no perturbation to average.
  is_plain = jnp.isnan(scalar("perturbed_value", jnp.zeros(())))
  return {
    "sam_loss": loss,
    "sharpness": loss - shard["loss"],
    "gradient_norm": scalar("gradient_norm"),
    "perturbation_norm": jnp.where(is_plain, nan, scalar("perturbation_norm")),
    "gradient_cosine": jnp.where(is_plain, nan, scalar("cosine")),
  }


def _noise_metrics(shard):
  """Return the error rates on the training labels that are right and wrong."""
  error, nan = shard["error_rate"], jnp.full((), jnp.nan, jnp.float32)
  wrong = shard.get("wrong_rate", nan)
  error_if_wrong = shard.get("error_rate_if_wrong", nan)
  return {
    "error_rate_on_correct_labels": (error - error_if_wrong) / (1 - wrong),
    "error_rate_on_wrong_labels": error_if_wrong / wrong,
  }


def eval_step(
  variables: dict[str, Any],
  batch: Batch,
  model: nn.Module,
  preprocess: Callable[[jax.Array], jax.Array],
  loss: losses.Loss = losses.cross_entropy,
) -> dict[str, jax.Array]:
  """Sum loss and errors over the examples of all devices.

  Args:
    variables: {"params", "batch_stats"}, the same on every device.
    batch: This device's `image` uint8 [N, H, W, C], `label` int [N] and `mask`
      float [N]: 1 for examples, 0 for padding.
    model: The network.
    preprocess: uint8 images -> float images.
    loss: (logits, targets) -> loss of each example.

  Returns:
    float32 scalars `count`, `loss`, `error_rate` and, with more than 5 classes,
    `top_5_error_rate`: sums, to be divided by the total count.
  """
  logits: Any = model.apply(variables, preprocess(batch["image"]), train=False)
  num_classes = logits.shape[-1]
  labels, mask = batch["label"], batch["mask"]
  targets = jax.nn.one_hot(labels, num_classes)
  values = {
    "count": jnp.ones_like(mask),
    "loss": loss(logits, targets),
    "error_rate": losses.top_k_error(logits, labels, 1),
  }
  if num_classes > 5:
    values["top_5_error_rate"] = losses.top_k_error(logits, labels, 5)
  sums = {name: jnp.sum(value * mask) for name, value in values.items()}
  return jax.lax.psum(sums, AXIS)
