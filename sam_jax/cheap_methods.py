"""Methods that take fewer than two gradients a step; `methods.py` exports them.

`every_k`, `look_sam` and `ae_sam` choose the steps that are those of SAM.
`momentum_sam` and `single_step_sam` take the only gradient of a step at a
perturbed point that they know before: see `one_gradient.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sam_jax import arguments
from sam_jax.method_tools import (
  add_scaled,
  check,
  combine,
  orthogonal,
  refuse,
  select,
  spell_out_kwargs,
  zeros,
)
from sam_jax.one_gradient import OneGradient
from sam_jax.reductions import difference, divide, norm, vdot_of_difference
from sam_jax.sam import (
  Ball,
  SharpnessAwareState,
  dual_vector,
  is_sam_step,
  mean_of_shards,
  sharpness_aware,
)


@spell_out_kwargs
def every_k(
  rho: optax.ScalarOrSchedule, *, every: int, scale: str = "rho", **kwargs: Any
) -> optax.GradientTransformationExtraArgs:
  """Use SAM on every k-th step, and make it k times as strong.

  MosaicML's Composer advises to raise rho in proportion to k: 0.05 for k = 1,
  0.5 for k = 10. init2winit keeps rho, and its SAM steps descend along
  g + k * (g_SAM - g); its code takes g / ||g|| for g there, which this function
  does not copy. Without such a rule, use `sharpness_aware(rho, every=k)`.
  Cost: 1 + 1 / k on average.

  Args:
    rho: Radius for k = 1, or a schedule.
    every: k. The first step is a SAM step.
    scale: What is multiplied by k: "rho" (Composer) or "sharpness"
      (init2winit).

  Reference: mosaicml/composer, composer/algorithms/sam/README.md;
  google/init2winit, init2winit/optimizer_lib/factor_sam.py.
  """
  if scale == "rho":
    radius = (lambda t: every * rho(t)) if callable(rho) else every * rho
    return sharpness_aware(radius, every=every, **kwargs)
  if scale == "sharpness":
    return combine(
      sharpness_aware(rho, every=every, **kwargs),
      lambda g, s: add_scaled(g, every, optax.tree.sub(s, g)),
    )
  raise ValueError(
    f"scale must be 'rho' or 'sharpness', got scale = {scale!r}."
  )


class LookSamState(NamedTuple):
  """State of `look_sam`."""

  sam: SharpnessAwareState
  orthogonal: optax.Updates  # tree like params, float32; g_v


@spell_out_kwargs
def look_sam(
  rho: optax.ScalarOrSchedule,
  *,
  every: int,
  alpha: float = 0.7,
  **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
  """LookSAM: reuse the part of g_SAM that leads to flat regions.

  Every k-th step is a SAM step and keeps g_v, the part of g_SAM orthogonal to
  g. The steps in between descend along g + alpha * ||g|| / ||g_v|| * g_v. Norms
  run over all parameters, as in algorithm 1 of the paper; the port has a ratio
  for each tensor. Cost: 1 + 1 / k on average.

  Args:
    every: k. The first step is a SAM step.
    alpha: Weight of the reused part; 0.7 in the port.

  Reference: Liu et al. (CVPR 2022), arXiv:2203.02714; unofficial port:
  rollovd/LookSAM, looksam.py.
  """
  check("alpha", alpha)
  sam = sharpness_aware(rho, every=every, **kwargs)

  def init_fn(params):
    return LookSamState(sam.init(params), zeros(params))

  def update_fn(updates, state, params=None, **extra_args):
    sam_updates, sam_state = sam.update(
      updates, state.sam, params, **extra_args
    )
    is_perturbed = sam_state.perturbation_norm > 0
    ratio = divide(norm(updates), norm(state.orthogonal))
    reused = add_scaled(updates, alpha * ratio, state.orthogonal)
    # At a step at which a schedule of rho is 0, nothing is reused.
    reuses = is_sam_step(state.sam.count, rho, every=1)
    reused = select(reuses, reused, updates)
    kept = orthogonal(sam_updates, updates)
    kept = select(is_perturbed, kept, state.orthogonal)
    updates = select(is_perturbed, sam_updates, reused)
    return updates, LookSamState(sam_state, kept)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class AdaptiveSamState(NamedTuple):
  """State of `ae_sam`."""

  sam: SharpnessAwareState
  mean: jax.typing.ArrayLike  # shape=(), float32; of ||g||^2
  variance: jax.typing.ArrayLike  # shape=(), float32; of ||g||^2


@spell_out_kwargs
def ae_sam(
  rho: optax.ScalarOrSchedule,
  *,
  total_steps: float,
  first_threshold: float = 1.0,
  last_threshold: float = -1.0,
  decay: float = 0.9,
  **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
  """AE-SAM: perturb only where the gradient is large.

  A step is one of SAM if ||g||^2 >= mean + c * deviation. Moving averages,
  which start at 0 and include g, estimate the mean and the deviation of
  ||g||^2, and c falls linearly from `first_threshold` to `last_threshold`. Each
  shard decides separately. Cost: 1 to 2, about 1.5 with the thresholds of the
  paper.

  Args:
    total_steps: Steps of the run; `sam_jax.train` knows them.
    first_threshold: c at the first step, lambda_2 in the paper.
    last_threshold: c at the last step, lambda_1 in the paper.
    decay: Decay of the moving averages, in [0, 1): delta in the paper.

  Raises:
    ValueError: `ascent_steps` is set.

  Reference: Jiang et al. (ICLR 2023), arXiv:2304.14647.
  """
  check("decay", decay, below=1.0)
  refuse("ae_sam", kwargs, ascent_steps=1)
  # The shards that share a perturbation must agree, so that none of them waits
  # for the others: they average g before they decide.
  sync = kwargs.pop("sync", None)
  sam = sharpness_aware(rho, **kwargs)

  def init_fn(params):
    zero = jnp.zeros((), jnp.float32)
    return AdaptiveSamState(sam.init(params), zero, zero)

  def update_fn(updates, state, params=None, **extra_args):
    updates = mean_of_shards(updates, sync)
    square = norm(updates) ** 2
    mean = decay * state.mean + (1 - decay) * square
    variance = decay * state.variance + (1 - decay) * (square - mean) ** 2
    done = state.sam.count / total_steps
    threshold = first_threshold + done * (last_threshold - first_threshold)
    updates, sam_state = sam.update(
      updates,
      state.sam,
      params,
      only_if=square >= mean + threshold * jnp.sqrt(variance),
      **extra_args,
    )
    return updates, AdaptiveSamState(sam_state, mean, variance)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class OneGradientState(NamedTuple):
  """State of `momentum_sam` and `single_step_sam`."""

  count: jax.typing.ArrayLike  # type: ignore[assignment]  # shape=(), int32
  gradient_norm: jax.typing.ArrayLike  # shape=(), float32; of g at w + eps
  perturbation_norm: jax.typing.ArrayLike  # shape=(), float32; ||eps||_p
  cosine: jax.typing.ArrayLike  # shape=(), float32; between eps and g
  direction: optax.Updates  # tree like params, float32


@spell_out_kwargs
def momentum_sam(
  rho: optax.ScalarOrSchedule, *, decay: float = 0.9, **kwargs: Any
) -> OneGradient:
  """MSAM: take the gradient at w - rho * v / ||v||, with v the momentum.

  v = decay * v + g is a buffer of this method; that of the optimizer may have
  another decay, and sees clipped gradients. The sign is that of the paper,
  which perturbs as Nesterov's momentum does. All shards share the perturbation,
  whatever `m`. Cost: 1.

  Args:
    decay: Decay of the momentum, in [0, 1).

  Raises:
    ValueError: An argument is set that needs a second gradient.

  Reference: Becker et al. (2024), arXiv:2401.12033; code: MarlonBecker/MSAM,
  optimizer/msam.py.
  """
  check("decay", decay, below=1.0)
  return _one_gradient("momentum_sam", rho, kwargs, decay=decay, sign=-1)


@spell_out_kwargs
def single_step_sam(rho: optax.ScalarOrSchedule, **kwargs: Any) -> OneGradient:
  """S2-SAM: perturb along the gradient of the step before.

  That is the sharpness-aware gradient, as it was taken at the perturbed point.
  The first step perturbs nothing. All shards share the perturbation, whatever
  `m`. Cost: 1.

  Raises:
    ValueError: An argument is set that needs a second gradient.

  Reference: Ji et al. (NeurIPS 2024), "A Single-Step, Sharpness-Aware
  Minimization is All You Need"; code: jjsrf/SSAM-NEURIPS2024, sam.py.
  """
  return _one_gradient("single_step_sam", rho, kwargs, decay=0.0, sign=1)


def _one_gradient(
  name: str,
  rho: optax.ScalarOrSchedule,
  kwargs: dict[str, Any],
  decay: float,
  sign: int,
) -> OneGradient:
  """Build a method that perturbs along a moving sum of gradients.

  Args:
    name: Name of the method.
    rho: Radius.
    kwargs: Arguments of `sharpness_aware`.
    decay: Decay of the sum.
    sign: 1 or -1, times the direction.
  """
  needs_two = {"ascent_steps": 1, "surrogate_gap": 0.0, "second_order": False}
  refuse(name, kwargs, **needs_two, random_key=None)
  sharpness_aware(rho, **kwargs)  # checks the arguments
  p, every = kwargs.get("p", 2.0), kwargs.get("every", 1)
  adaptive, eta = kwargs.get("adaptive", False), kwargs.get("eta", 0.01)
  ball = Ball(p, adaptive, eta, kwargs.get("mask"))

  def init_fn(params):
    zero = jnp.zeros((), jnp.float32)
    return OneGradientState(
      jnp.zeros((), jnp.int32), zero, zero, zero, zeros(params)
    )

  def point(state, params):
    is_perturbed = is_sam_step(state.count, rho, every)
    if is_perturbed is False:
      return params
    params = jax.tree.map(jnp.asarray, params)
    rho_t = rho(state.count) if callable(rho) else rho
    v = dual_vector(ball.scale(state.direction, params), p)
    scale = sign * rho_t * is_perturbed
    return ball.move(params, optax.tree.scale(scale, v), rho_t, None)[0]

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    params = jax.tree.map(jnp.asarray, params)
    updates = arguments.like(params, updates, "updates")
    perturbed = point(state, params)
    eps, length = difference(perturbed, params), norm(updates)
    along = vdot_of_difference(perturbed, params, updates)
    direction = add_scaled(optax.tree.scale(decay, state.direction), 1, updates)
    return updates, OneGradientState(
      optax.safe_increment(state.count),
      length,
      norm(eps, p),
      divide(along, norm(eps) * length),
      direction,
    )

  return OneGradient(init_fn, update_fn, point)
