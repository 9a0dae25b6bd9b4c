r"""Sharpness-Aware Minimization (SAM) as an Optax gradient transformation.

SAM (Foret, Kleiner, Mobahi, Neyshabur, 2021) minimizes the loss of the worst
point in a neighborhood of the parameters,

  min_w max_{||eps||_p <= rho} L(w + eps).

With g = grad L(w) and 1/p + 1/q = 1, the linearized inner problem has the
solution

  eps(w) = rho * sign(g) * |g|^(q-1) / (||g||_q^q)^(1/p)           (eq. 2)
  g_SAM  = grad L(w)|_{w + eps(w)}                                 (eq. 3)

where eps(w) is a constant of the outer gradient: the Hessian term that its
derivative would add is dropped unless `second_order` asks for it.

A gradient goes in, a sharpness-aware gradient comes out:

  optimizer = optax.chain(
    sharpness_aware(rho=0.05),     # each shard has its own perturbation
    mean_across("batch"),          # the one all-reduce of the step
    optax.clip_by_global_norm(5.0),
    optax.sgd(0.1, momentum=0.9, nesterov=True),
  )
  updates, opt_state = optimizer.update(
    grads, opt_state, params, grad_fn=grad_fn
  )

**Pass local gradients.** Averaging g_SAM over shards B_i gives m-sharpness with
m = |B_i| (section 4.1). If the gradients are averaged *before* they enter,
every shard has the same eps: ask for that with `sync` instead. Under
`jax.shard_map` use `check_vma=False`, or differentiate at
`jax.lax.pcast(params, "batch", to="varying")`. To accumulate gradients, chain
`sharpness_aware` before `optax.MultiSteps`: the other way round, the mean
gradient of all microbatches would meet the `grad_fn` of the last one.

References:
  Foret et al., `Sharpness-Aware Minimization for Efficiently Improving
  Generalization <https://arxiv.org/abs/2010.01412>`_, ICLR 2021
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sam_jax import arguments, masks
from sam_jax.reductions import (
  difference,
  divide,
  norm,
  power_sum,
  vdot,
  vdot_of_difference,
)

# None: no devices; an axis name: all of them; (axis name, axis_index_groups).
Sync = None | str | tuple[str, Sequence[Sequence[int]]]
# Tree of bools, a prefix of one, or a function from `params` to it.
Mask = Any | Callable[[optax.Params], Any]


class SharpnessAwareState(NamedTuple):
  """Hold the step count, and scalars of the last step of this shard.

  Average the scalars over the shards before they are logged.
  """

  count: jax.typing.ArrayLike  # type: ignore[assignment]  # shape=(), int32
  gradient_norm: jax.typing.ArrayLike  # shape=(), float32; ||g||_2 at w
  perturbation_norm: jax.typing.ArrayLike  # shape=(), float32; ||eps||_p
  cosine: jax.typing.ArrayLike  # shape=(), float32; between eps and g_SAM
  perturbed_value: jax.typing.ArrayLike  # shape=(), float32; L(w + eps) or nan


def is_sam_step(
  count: jax.Array, rho: optax.ScalarOrSchedule, every: int
) -> bool | jax.Array:
  """Return True if `sharpness_aware(rho, every=every)` perturbs step `count`.

  The answer is a bool if it is the same for all steps, else an array: a plain
  step then costs one gradient.
  """
  is_on: Any = True
  if callable(rho):
    is_on = rho(count) > 0
  elif not arguments.is_traced(rho):
    is_on = rho > 0
  is_on = is_on if arguments.is_traced(is_on) else bool(is_on)
  if is_on is False or every == 1:
    return is_on
  return is_on & (count % every == 0)


def sharpness_aware(
  rho: optax.ScalarOrSchedule,
  *,
  p: float = 2.0,
  adaptive: bool | Mask = False,
  eta: float = 0.01,
  ascent_steps: int = 1,
  sync: Sync = None,
  every: int = 1,
  mask: Mask | None = None,
  surrogate_gap: float = 0.0,
  second_order: bool = False,
  random_key: jax.Array | None = None,
  has_value: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Replace the gradient at `params` with the sharpness-aware gradient.

  Args:
    rho: Radius of the neighborhood, or a schedule. 0 never traces `grad_fn`; a
      step at which a schedule is 0 never runs it.
    p: Norm of the neighborhood, in [1, inf].
    adaptive: ASAM (Kwon et al., 2021): `||eps / T||_p <= rho` with
      `T = |w| + eta`.
      True scales what its authors scale, every leaf but those named "bias"
      (there T = 1); a mask selects the scaled leaves.
    eta: Offset of ASAM.
    ascent_steps: Steps of projected gradient ascent (appendix C.3). Each moves
      by `rho`, and is scaled back radially into the neighborhood.
    sync: Devices that share a perturbation, see `Sync`. Only ascent gradients
      are averaged, never the result (see `mean_across`).
    every: Use SAM on every `every`-th step, from the first one on, and the
      plain gradient in between.
    mask: Leaves to perturb, a mask as in `optax.masked`. Norms run over them.
    surrogate_gap: alpha of GSAM (Zhuang et al., 2022): subtract alpha times the
      part of the gradient that is orthogonal to the sharpness-aware gradient.
    second_order: Add the term that SAM drops (appendix C.4), at the cost of two
      more gradients; `grad_fn` gets `ascent_step=-1` for it. Needs p = 2 and
      one ascent step.
    random_key: If set, the control of appendix C.5: a normal draw takes the
      place of the ascent gradient, another one at each step, and the same one
      for all shards.
    has_value: `grad_fn` returns `(value, gradient)`; the state keeps the value.

  Returns:
    A transformation whose `update(grads, state, params, grad_fn=grad_fn)` calls
    `grad_fn(params, ascent_step)`, as `optax.contrib.sam` does. A zero or
    non-finite gradient perturbs nothing. Norms are computed in float32. With
    `only_if=condition`, a bool or a traced one, a step may also be plain.

  Raises:
    ValueError: An argument is out of range. In `update`: `params` or `grad_fn`
      is missing or has the wrong structure, or gradients are not local.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> loss = lambda w: jnp.sum(jnp.array([1.0, 10.0]) * w**2)
    >>> grad_fn = lambda w, ascent_step: jax.grad(loss)(w)
    >>> optimizer = optax.chain(sharpness_aware(rho=0.05), optax.sgd(0.01))
    >>> w = jnp.array([1.0, 1.0])
    >>> state = optimizer.init(w)
    >>> for _ in range(100):
    ...   updates, state = optimizer.update(
    ...     jax.grad(loss)(w), state, w, grad_fn=grad_fn
    ...   )
    ...   w = optax.apply_updates(w, updates)
    >>> bool(loss(w) < 0.1 * loss(jnp.array([1.0, 1.0])))
    True
  """
  arguments.check(
    *(rho, p, eta, ascent_steps, every, surrogate_gap, sync, second_order),
    is_random=random_key is not None,
  )
  ball = Ball(p, adaptive, eta, mask)

  def init_fn(params: optax.Params) -> SharpnessAwareState:
    del params
    zero, nan = jnp.zeros((), jnp.float32), jnp.full((), jnp.nan, jnp.float32)
    return SharpnessAwareState(jnp.zeros((), jnp.int32), zero, zero, zero, nan)

  def plain_update(grads, state):
    length = norm(grads)
    scalars = (length, 0 * length, 0 * length + 1, jnp.nan * length)
    return grads, SharpnessAwareState(state.count, *scalars)

  def sam_update(grads, state, params, rho_t, grad_fn):
    u, sam_grads = None, grads
    for step in range(ascent_steps):
      if random_key is None:
        ascent_grads = mean_of_shards(sam_grads, sync)
      else:
        draw = jax.random.fold_in(random_key, ascent_steps * state.count + step)
        ascent_grads = optax.tree.random_like(draw, params, dtype=jnp.float32)
      perturbed, u = ball.ascend(params, ascent_grads, rho_t, u)
      eps = difference(perturbed, params)
      # Behind this barrier XLA may reuse the memory of g and eps: SAM takes one
      # parameter-sized buffer more than SGD.
      perturbed, radius, length = jax.lax.optimization_barrier(
        (perturbed, norm(eps, p), norm(eps))
      )
      value, sam_grads = arguments.split(
        grad_fn(perturbed, step), params, has_value
      )
    inner = vdot_of_difference(perturbed, params, sam_grads)
    cosine = divide(inner, length * norm(sam_grads))
    if second_order:
      sam_grads = _through_perturbation(
        lambda g, w: ball.ascend(w, g, rho_t)[0],
        lambda w: arguments.split(grad_fn(w, -1), params, has_value)[1],
        *(params, ascent_grads, mean_of_shards(sam_grads, sync)),
      )
    if surrogate_gap:
      sam_grads = _close_gap(sam_grads, grads, surrogate_gap)
    length = norm(grads)
    value = jnp.asarray(value if has_value else jnp.nan * length, jnp.float32)
    scalars = (length, radius, cosine, value)
    return sam_grads, SharpnessAwareState(state.count, *scalars)

  def update_fn(
    updates, state, params=None, *, grad_fn=None, only_if=True, **extra_args
  ):
    del extra_args
    updates, params = arguments.check_update(updates, params, grad_fn)
    rho_t = rho(state.count) if callable(rho) else rho
    is_perturbed = is_sam_step(state.count, rho, every)
    if is_perturbed is not False:
      is_perturbed &= only_if
    if is_perturbed is False:
      updates, state = plain_update(updates, state)
    elif is_perturbed is True:
      updates, state = sam_update(updates, state, params, rho_t, grad_fn)
    else:
      # `optax.conditionally_transform` would keep the scalars of an older step.
      updates, state = jax.lax.cond(
        is_perturbed,
        lambda g: sam_update(g, state, params, rho_t, grad_fn),
        lambda g: plain_update(g, state),
        updates,
      )
    return updates, state._replace(count=optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mean_across(axis_name: str) -> optax.GradientTransformation:
  """Average the updates over the devices of `axis_name`: one all-reduce.

  Raises:
    ValueError: In `update`: the updates are summed over the axis already.
  """
  return optax.stateless(lambda updates, _: mean_of_shards(updates, axis_name))


def sam(
  base_optimizer: optax.GradientTransformation,
  rho: optax.ScalarOrSchedule = 0.05,
  axis_name: str | None = None,
  **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
  """Chain `sharpness_aware`, `mean_across` and `base_optimizer`.

  Clip gradients *inside* `base_optimizer`, after the mean: clipping before SAM
  only rescales the ascent gradient, whose length does not matter.

  Args:
    base_optimizer: Descends along the (averaged) sharpness-aware gradient.
    rho: Radius of the neighborhood, or a schedule.
    axis_name: Axis of the devices to average over; None for a single shard.
    **kwargs: Keyword arguments of `sharpness_aware`.

  Returns:
    The chain. Its `update` needs `params` and `grad_fn=`.

  Raises:
    ValueError: As in `sharpness_aware`.
  """
  mean = [] if axis_name is None else [mean_across(axis_name)]
  return optax.chain(sharpness_aware(rho, **kwargs), *mean, base_optimizer)


# Wrappers such as optax.inject_hyperparams bind arguments by this signature.
sam.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
  [
    *list(inspect.signature(sam).parameters.values())[:3],
    *list(inspect.signature(sharpness_aware).parameters.values())[1:],
  ]
)


def dual_vector(gradient: Any, p: float) -> Any:
  """Return argmax <v, gradient> over ||v||_p <= 1 (eq. 2).

  Args:
    gradient: Tree of arrays, taken as one long vector.
    p: Norm, in [1, inf]. As p -> 1 the solution concentrates on the largest
      entries; ties share it evenly.

  Returns:
    A float32 tree like `gradient` with ||v||_p = 1; zeros where the norm of the
    gradient is zero or not finite.
  """
  g = optax.tree.cast(gradient, jnp.float32)
  size = norm(g, 2 if p == 2 else math.inf)
  is_usable = (size > 0) & jnp.isfinite(size)
  # |g| / max|g| is in [0, 1]: no power of it overflows, whatever q.
  scale = divide(jnp.float32(1), jnp.where(is_usable, size, 0))
  r = optax.tree.scale(scale, g)
  if p == 2:
    v = r
  elif p == math.inf:
    v = jax.tree.map(jnp.sign, g)
  elif p == 1:
    top = jax.tree.map(lambda g: jnp.sign(g) * (jnp.abs(g) == size), g)
    v = optax.tree.scale(1 / jnp.maximum(norm(top, 1), 1), top)
  else:
    q = p / (p - 1)
    length = jnp.where(is_usable, power_sum(r, q), 1) ** (1 / p)
    v = jax.tree.map(lambda r: jnp.sign(r) * jnp.abs(r) ** (q - 1) / length, r)
  return jax.tree.map(lambda v: jnp.where(scale > 0, v, 0), v)


class Ball(NamedTuple):
  """The neighborhood ||eps / T||_p <= rho; T = 1 (SAM) or |w| + eta (ASAM)."""

  p: float = 2.0
  adaptive: bool | Mask = False
  eta: float = 0.01
  mask: Mask | None = None

  def ascend(self, params, grads, rho, u=None):
    """Take a step of SAM's ascent from u = eps / T, see `move`."""
    v = dual_vector(self.scale(grads, params), self.p)
    return self.move(params, optax.tree.scale(rho, v), rho, u)

  def scale(self, grads, params):
    """Return T g, and zeros where the mask is False: the gradient by u."""
    return jax.tree.map(
      lambda t, g, m: t * g.astype(jnp.float32) if m else jnp.zeros(()),
      *(self._t(params), grads, self._mask(params)),
    )

  def move(self, params, step, rho, u):
    """Take a step from u = eps / T; return w + eps and the new u."""
    if u is None:
      u = step
    else:  # scale radially back into the ball
      u = optax.tree.add(u, step)
      length = norm(u, self.p)
      u = optax.tree.scale(divide(rho, jnp.maximum(length, rho)), u)
    eps, mask = optax.tree.mul(self._t(params), u), self._mask(params)
    perturbed = jax.tree.map(
      lambda w, e, m: (w + e).astype(w.dtype) if m else w, params, eps, mask
    )
    return perturbed, u

  def _t(self, params):
    is_scaled = masks.weights if self.adaptive is True else self.adaptive
    return jax.tree.map(
      lambda w, s: jnp.abs(w.astype(jnp.float32)) + self.eta if s else 1.0,
      *(params, arguments.broadcast_mask(is_scaled, params)),
    )

  def _mask(self, params):
    mask = True if self.mask is None else self.mask
    return arguments.broadcast_mask(mask, params)


def _through_perturbation(move, grad_fn, params, ascent_grads, sam_grads):
  """Return the gradient of L(move(g(w), w)), with H the Hessian of L at w.

  It is (dmove/dw)^T g_SAM + H (dmove/dg)^T g_SAM.
  """
  _, pull_back = jax.vjp(move, ascent_grads, params)
  along_grads, along_params = pull_back(sam_grads)
  _, curvature = jax.jvp(grad_fn, (params,), (along_grads,))
  return optax.tree.add(along_params, curvature)


def _close_gap(sam_grads, grads, alpha):
  """Subtract alpha times the part of `grads` orthogonal to `sam_grads`."""
  along = divide(vdot(grads, sam_grads), norm(sam_grads) ** 2)
  return jax.tree.map(
    lambda s, g: s - alpha * (g - along.astype(s.dtype) * s), sam_grads, grads
  )


def mean_of_shards(grads: Any, sync: Sync) -> Any:
  """Average over the devices that share a perturbation."""
  if sync is None:
    return grads
  axis_name, groups = (sync, None) if isinstance(sync, str) else sync
  arguments.check_local(grads, axis_name, groups)
  return jax.lax.pmean(grads, axis_name, axis_index_groups=groups)
