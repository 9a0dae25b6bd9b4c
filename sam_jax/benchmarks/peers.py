"""SAM of `optax.contrib`, in the place of ours in the same training step."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from sam_jax.sam import SharpnessAwareState, sharpness_aware
from sam_jax.training.step import Recipe


def with_optax_opaque(
  recipe: Recipe, rho: float, axis_name: str | None = None
) -> Recipe:
  """Replaces our transformation by `optax.contrib.sam` in opaque mode.

  Args:
    recipe: A recipe of SAM.
    rho: Radius of the neighbourhood.
    axis_name: Averages over this axis inside, as its documentation has it for
      several devices: a second all-reduce.
  """
  peer = optax.contrib.sam(
    optax.identity(),
    _ascent(rho),
    sync_period=2,
    opaque_mode=True,
    batch_axis_name=axis_name,
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
  """Replaces it by transparent mode: two calls of the step are one SAM step."""
  peer = optax.contrib.sam(recipe.optimizer, _ascent(rho), sync_period=2)
  return dataclasses.replace(
    recipe, sharpness=sharpness_aware(0.0), optimizer=peer
  )


def _ascent(rho: float) -> optax.GradientTransformation:
  return optax.chain(optax.contrib.normalize(), optax.sgd(rho))


def update_difference(params_a, params_b, start) -> float:
  """||(a - start) - (b - start)|| / ||b - start|| of parameters."""
  difference = optax.tree.norm(jax.tree.map(jnp.subtract, params_a, params_b))
  update = optax.tree.norm(jax.tree.map(jnp.subtract, params_b, start))
  return float(difference / update)
