"""`optax.contrib.sam` in place of our SAM, in the same training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sam_jax.sam import sharpness_aware
from sam_jax.training.step import Parts

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
