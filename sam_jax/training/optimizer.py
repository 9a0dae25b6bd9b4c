"""The descent: learning-rate schedules, optimizers, weight averages.

What descends is the (sharpness-aware) gradient, averaged over all shards.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

SCHEDULES = ("cosine", "exponential", "constant")
OPTIMIZERS = ("sgd", "rmsprop", "adamw")

# The exponential schedule ends at this fraction of the initial learning rate,
# as in google-research/sam, after the EfficientNet paper.
EXPONENTIAL_END = 0.012


def learning_rate_schedule(
  config: ConfigDict, steps_per_epoch: int, num_epochs: float
) -> optax.Schedule:
  """Learning rate as a function of the step, equal to google-research/sam's.

  "cosine" is lr/2 (1 + cos(pi t/T)) and "exponential" lr 0.012^(t/T) over the
  T steps of the run, "constant" is lr. A warm-up of w > 0 epochs multiplies any
  of them by min(t / (w steps_per_epoch), 1).

  Args:
    config: `config.optimizer`.
    steps_per_epoch: Optimizer steps in an epoch.
    num_epochs: Epochs of the whole run.

  Returns:
    step -> float32 scalar.
  """
  base = config.learning_rate
  total = num_epochs * steps_per_epoch
  warmup = config.warmup_epochs * steps_per_epoch

  def schedule(step):
    t = jnp.asarray(step, jnp.float32)
    factor = {
      "cosine": lambda: 0.5 * (1 + jnp.cos(jnp.pi * t / total)),
      "exponential": lambda: jnp.exp(math.log(EXPONENTIAL_END) * t / total),
      "constant": lambda: jnp.ones_like(t),
    }[config.schedule]()
    if warmup > 0:
      factor *= jnp.minimum(t / warmup, 1)
    return base * factor

  return schedule


def rho_schedule(
  config: ConfigDict, schedule: optax.Schedule
) -> optax.ScalarOrSchedule:
  """Radius of the neighbourhood: constant, or GSAM's, tied to learning rate.

  With `rho_min` set, rho_t = rho_min + (rho - rho_min) * lr_t / lr_max (Zhuang
  et al., ICLR 2022, with a learning rate that ends at 0).

  Args:
    config: The whole config.
    schedule: Learning rate by step.

  Returns:
    A float or a schedule.
  """
  rho, rho_min = config.sam.rho, config.sam.rho_min
  peak = config.optimizer.learning_rate
  if rho_min is None or rho_min == rho or peak == 0:  # 0: nothing is trained
    return rho
  return lambda step: rho_min + (rho - rho_min) * schedule(step) / peak


def create_optimizer(
  config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Builds clip -> direction -> decoupled decay -> learning rate.

  "sgd" is momentum SGD, by default Nesterov's; "rmsprop" is the variant of
  TensorFlow and google-research/sam: second moments start at 1, eps sits inside
  the root, and the learning rate multiplies the momentum buffer on its way
  out; "adamw" is Adam with decoupled decay (Loshchilov & Hutter, 2019).

  Args:
    config: `config.optimizer`.
    schedule: Learning rate by step.

  Returns:
    The transformation from an averaged gradient to updates.
  """
  parts = []
  if config.gradient_clipping > 0:
    parts.append(optax.clip_by_global_norm(config.gradient_clipping))
  if config.name == "sgd":
    parts.append(optax.trace(config.momentum, nesterov=config.nesterov))
  elif config.name == "rmsprop":
    parts.append(
      optax.scale_by_rms(
        decay=config.rmsprop_decay,
        eps=config.rmsprop_eps,
        initial_scale=1.0,
        eps_in_sqrt=True,
      )
    )
    parts.append(optax.trace(config.momentum))
  else:
    parts.append(optax.scale_by_adam())
  if config.weight_decay > 0 and config.weight_decay_kind == "decoupled":
    mask = None if config.weight_decay_on_norm else _has_several_dimensions
    parts.append(optax.add_decayed_weights(config.weight_decay, mask))
  parts.append(optax.scale_by_learning_rate(schedule))
  return optax.chain(*parts)


def perturbation_mask(name: str) -> Any:
  """Which parameters SAM perturbs.

  Args:
    name: "all"; "norm": only normalisation parameters (SAM-ON, Mueller et al.,
      NeurIPS 2023); "no_norm": all but them and biases.

  Returns:
    The `mask` of `sharpness_aware`.
  """
  if name == "all":
    return None
  if name == "no_norm":
    return _has_several_dimensions
  return lambda params: jax.tree_util.tree_map_with_path(
    lambda path, _: _is_norm(path, params), params
  )


def _is_norm(path, params) -> bool:
  """A normalisation layer's module has a `scale` beside its `bias`."""
  module = params
  for key in path[:-1]:
    module = module[key.key]
  return "scale" in module


def _has_several_dimensions(params):
  return jax.tree.map(lambda w: w.ndim > 1, params)


def update_ema(ema, values, step, decay: float, warmup_steps: int):
  """Moves an exponential moving average of parameters and batch statistics.

  With d = step - warmup_steps the decay is 0 for d < 0 and
  min(decay, (1 + d) / (10 + d)) from there, as in google-research/sam.

  Args:
    ema: Tree of averages.
    values: Tree of values like it.
    step: int32 (), counted from 1.
    decay: Final decay.
    warmup_steps: Steps in which the average just follows.

  Returns:
    The new averages.
  """
  d = jnp.maximum(step - warmup_steps, 0).astype(jnp.float32)
  factor = jnp.minimum(decay, (1 + d) / (10 + d))
  factor = jnp.where(step < warmup_steps, 0.0, factor)
  return jax.tree.map(lambda a, v: factor * a + (1 - factor) * v, ema, values)
