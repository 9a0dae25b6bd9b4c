"""`optax.contrib.sam` in our training step, and in a loop without our code."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sam_jax.sam import mean_across, sharpness_aware
from sam_jax.training.parallel import AXIS
from sam_jax.training.state import TrainState
from sam_jax.training.step import Batch, Parts

TrainStep = Callable[[Any, Any], tuple[Any, Any]]


def with_optax_opaque(parts: Parts, rho: float) -> Parts:
  """Replace our transformation with `optax.contrib.sam` in opaque mode.

  It sees the gradients of a shard, as ours does, and the step averages its
  result: its own `batch_axis_name` would average a second time.

  Args:
    parts: The parts of a step of SAM.
    rho: Radius of the neighborhood.
  """
  optax_sam = optax.contrib.sam(
    optax.identity(), _ascent(rho), sync_period=2, opaque_mode=True
  )

  def update(gradient, state, params, *, grad_fn):
    sam_gradient, _ = optax_sam.update(
      gradient,
      optax_sam.init(params),  # holds nothing that a step changes
      params,
      grad_fn=lambda w, i: grad_fn(w, i)[1],
    )
    return sam_gradient, state

  sharpness = optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )
  return dataclasses.replace(parts, sharpness=sharpness)


def with_optax_transparent(parts: Parts, rho: float) -> Parts:
  """Replace it with transparent mode: two calls of the step are one SAM step.

  The step can't tell its two passes apart: shake layers take the true gradient
  in both, where SAM descends without it.

  Args:
    parts: The parts of a step of SAM.
    rho: Radius of the neighborhood.
  """
  return dataclasses.replace(
    parts,
    sharpness=sharpness_aware(0.0),  # as in the step of SGD
    optimizer=optax.contrib.sam(parts.optimizer, _ascent(rho), sync_period=2),
  )


def for_bare_step(parts: Parts, rho: float) -> Parts:
  """Replace the optimizer with all of SAM, for `bare_step`.

  Args:
    parts: The parts of a step of SAM.
    rho: Radius of the neighborhood.
  """
  optax_sam = optax.contrib.sam(
    optax.chain(mean_across(AXIS), parts.optimizer),
    _ascent(rho),
    sync_period=2,
    opaque_mode=True,
  )
  return dataclasses.replace(
    parts, sharpness=sharpness_aware(0.0), optimizer=optax_sam
  )


def bare_step(
  state: TrainState, batch: Batch, parts: Parts
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Take a step as a user of optax writes it: nothing is measured or logged.

  Args:
    state: A state made with `for_bare_step`.
    batch: This device's `image` and `target`, as in `train_step`.
    parts: The parts that `for_bare_step` returned.

  Returns:
    The new state, and the loss.
  """

  def loss_fn(params):
    logits, updated = parts.model.apply(
      {"params": params, "batch_stats": state.batch_stats},
      batch["image"],
      train=True,
      rngs={"dropout": parts.dropout_key},
      mutable=["batch_stats"],
    )
    objective, _ = parts.loss_fn(params, logits, batch["target"])
    return objective, updated.get("batch_stats", {})

  value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
  (loss, batch_stats), gradient = value_and_grad(state.params)
  updates, opt_state = parts.optimizer.update(
    gradient,
    state.opt_state,
    state.params,
    grad_fn=lambda params, _: value_and_grad(params)[1],
  )
  params = optax.apply_updates(state.params, updates)
  new_state = state.replace(
    step=state.step + 1,
    params=params,
    batch_stats=jax.lax.pmean(batch_stats, AXIS),
    opt_state=opt_state,
  )
  return new_state, {"loss": jax.lax.pmean(loss, AXIS)}


def in_several_calls(step: TrainStep, calls: int) -> TrainStep:
  """Let random layers draw the same in all calls that make up a SAM step."""

  def call(state, batch):
    step_of_sam = state.replace(step=state.step // calls)
    new_state, metrics = step(step_of_sam, batch)
    return new_state.replace(step=state.step + 1), metrics

  return call


def update_difference(params_a: Any, params_b: Any, start: Any) -> float:
  """Return ||a - b|| / ||b - start||: the difference of updates over one."""
  difference = optax.tree.norm(jax.tree.map(jnp.subtract, params_a, params_b))
  update = optax.tree.norm(jax.tree.map(jnp.subtract, params_b, start))
  return float(difference / update)


def _ascent(rho: float) -> optax.GradientTransformation:
  return optax.chain(optax.contrib.normalize(), optax.sgd(rho))
