"""SAM of `optax.contrib`, in the place of ours in the same training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sam_jax.sam import SharpnessAwareState, sharpness_aware
from sam_jax.training.step import Recipe


def with_optax_opaque(recipe: Recipe, rho: float) -> Recipe:
  """Replaces our transformation by `optax.contrib.sam` in opaque mode.

  It sees the gradients of a shard, as ours does, and the step averages what it
  returns: its own `batch_axis_name` would average a second time.

  Args:
    recipe: A recipe of SAM.
    rho: Radius of the neighbourhood.
  """
  peer = optax.contrib.sam(
    optax.identity(), _ascent(rho), sync_period=2, opaque_mode=True
  )

  def update(gradient, state, params, *, grad_fn):
    sam_gradient, _ = peer.update(
      gradient,
      peer.init(params),  # holds no arrays
      params,
      grad_fn=lambda w, i: grad_fn(w, i)[1],
    )
    nothing = dict.fromkeys(state._fields[1:], jnp.float32(jnp.nan))
    return sam_gradient, SharpnessAwareState(state.count + 1, **nothing)

  transformation = optax.GradientTransformationExtraArgs(
    recipe.sharpness.init, update
  )
  return dataclasses.replace(recipe, sharpness=transformation)


def with_optax_transparent(recipe: Recipe, rho: float) -> Recipe:
  """Replaces it by transparent mode: two calls of the step are one SAM step.

  Its two passes can't be told apart from outside, so that shake layers take
  the true gradient in both, where SAM descends without it.
  """
  peer = optax.contrib.sam(recipe.optimizer, _ascent(rho), sync_period=2)
  return dataclasses.replace(
    recipe, sharpness=sharpness_aware(0.0), optimizer=peer
  )


def in_several_calls(
  step: Callable[[Any, Any], tuple[Any, Any]], calls: int
) -> Callable[[Any, Any], tuple[Any, Any]]:
  """A step whose random layers draw the same in the calls of one SAM step."""

  def call(state, batch):
    step_of_sam = state.replace(step=state.step // calls)
    new_state, metrics = step(step_of_sam, batch)
    return new_state.replace(step=state.step + 1), metrics

  return call


def _ascent(rho: float) -> optax.GradientTransformation:
  return optax.chain(optax.contrib.normalize(), optax.sgd(rho))


def update_difference(params_a, params_b, start) -> float:
  """||(a - start) - (b - start)|| / ||b - start|| of parameters."""
  difference = optax.tree.norm(jax.tree.map(jnp.subtract, params_a, params_b))
  update = optax.tree.norm(jax.tree.map(jnp.subtract, params_b, start))
  return float(difference / update)
