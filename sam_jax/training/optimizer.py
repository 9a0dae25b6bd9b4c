"""The descent: optimizers and weight averages.

The descent direction is the sharpness-aware gradient, averaged over all shards.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sam_jax import masks
from sam_jax.reductions import norm
from sam_jax.training.hyperparameters import is_zero


def create_optimizer(
  config: ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
  """Build clip -> direction -> decoupled decay -> learning rate.

  "sgd" is momentum SGD, by default Nesterov's. "rmsprop" is the variant of
  TensorFlow and google-research/sam: second moments start at 1, eps is inside
  the root, and the learning rate multiplies the momentum buffer on its way
  out. "adamw" is Adam with decoupled decay (Loshchilov & Hutter, 2019). Any
  other name is that of a function of optax, with its own hyperparameters in
  `config.options`.

  Args:
    config: `config.optimizer`.
    learning_rate: Learning rate by step.

  Returns:
    The transformation from an averaged gradient to updates.

  Raises:
    ValueError: The optimizer has no such option.
  """
  parts = []
  if not is_zero(config.gradient_clipping):
    parts.append(clip_by_global_norm(config.gradient_clipping))
  decays = config.weight_decay_kind == "decoupled"
  decays &= not is_zero(config.weight_decay)
  mask = None if config.weight_decay_on_norm else masks.kernels
  options = config.options.to_dict()
  if config.name == "sgd":
    fields = {"decay": config.momentum, "nesterov": config.nesterov}
    parts.append(_call(optax.trace, fields, options))
  elif config.name == "rmsprop":
    fields = {
      "decay": config.rmsprop_decay,
      "eps": config.rmsprop_eps,
      "initial_scale": 1.0,
      "eps_in_sqrt": True,
    }
    parts.append(_call(optax.scale_by_rms, fields, options))
    parts.append(optax.trace(config.momentum))
  elif config.name == "adamw":
    parts.append(_call(optax.scale_by_adam, {}, options))
  else:
    fields = {"learning_rate": learning_rate}
    if decays:
      fields |= {"weight_decay": config.weight_decay}
      fields |= {} if mask is None else {"mask": mask}
    factory = getattr(optax, config.name)
    return optax.chain(*parts, _call(factory, fields, options))
  if decays:
    parts.append(optax.add_decayed_weights(config.weight_decay, mask))
  parts.append(optax.scale_by_learning_rate(learning_rate))
  return optax.chain(*parts)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Scale updates down to a global norm, as `optax.clip_by_global_norm`.

  The transformation of optax divides and selects every value, which XLA
  compiles and stores separately; a factor is part of what comes after it.

  Args:
    max_norm: The largest global norm that stays as it is.
  """

  def clip(updates, params):
    del params
    length = norm(updates)
    # Not finite where the norm is not: the comparison is false for nan.
    factor = max_norm / jnp.where(length < max_norm, max_norm, length)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

  return optax.stateless(clip)


def _call(factory: Any, fields: dict[str, Any], options: dict[str, Any]) -> Any:
  """Call a function of optax with fields and options of a config.

  Raises:
    ValueError: It does not take them, and the message says which it takes; or
      an option repeats a field.
  """
  takes = list(inspect.signature(factory).parameters)
  for option in options.keys() & fields.keys():
    raise ValueError(f"the option {option!r} is set by a field of its own.")
  for option in fields | options:
    if option not in takes:
      raise ValueError(
        f"optax.{factory.__name__} has no argument {option!r}; it takes"
        f" {', '.join(takes)}."
      )
  return factory(**fields, **options)


def update_ema(
  ema: Any, values: Any, step: jax.Array, *, decay: float, warmup_steps: int
) -> Any:
  """Move an exponential moving average of parameters and batch statistics.

  With d = step - warmup_steps the decay is 0 for d < 0 and
  min(decay, (1 + d) / (10 + d)) from there, as in google-research/sam.

  Args:
    ema: Tree of averages.
    values: Tree of values like it.
    step: int32 (), counted from 1.
    decay: Final decay.
    warmup_steps: Steps in which the average equals the values.

  Returns:
    The new averages.
  """
  d = jnp.maximum(step - warmup_steps, 0).astype(jnp.float32)
  factor = jnp.minimum(decay, (1 + d) / (10 + d))
  factor = jnp.where(step < warmup_steps, 0.0, factor)
  return jax.tree.map(lambda a, v: factor * a + (1 - factor) * v, ema, values)
