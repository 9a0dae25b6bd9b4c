r"""Sharpness-Aware Minimization as an Optax gradient transformation.

SAM (Foret, Kleiner, Mobahi, Neyshabur, ICLR 2021, arXiv:2010.01412) seeks
parameters whose whole neighbourhood has a low loss,

  min_w max_{||eps||_p <= rho} L(w + eps).

The inner maximum of the linearised loss has a closed form (the paper's eq. 2;
g = grad L(w), 1/p + 1/q = 1):

  eps(w) = rho * sign(g) * |g|^(q-1) / (||g||_q^q)^(1/p)

and the step descends along the gradient at the perturbed point (eq. 3),

  g_SAM = grad L(w)|_{w + eps(w)}.

Differentiating through eps(w) would add the term (d eps/dw)^T g_SAM, a Hessian
vector product. SAM drops it, and so does this module unless it is asked for
`second_order`: `eps` is a constant of the outer gradient.

A gradient goes in, a sharpness-aware gradient comes out:

  optimizer = optax.chain(
    sharpness_aware(rho=0.05),     # each shard its own perturbation
    mean_across("batch"),          # the one all-reduce of the step
    optax.clip_by_global_norm(5.0),
    optax.sgd(0.1, momentum=0.9, nesterov=True),
  )
  updates, opt_state = optimizer.update(
    grads, opt_state, params, grad_fn=grad_fn
  )

**Feed it local gradients.** With `grads` and `grad_fn` of one shard B_i of the
batch, averaging the outputs descends along

  mean_i grad L_{B_i}(w + eps_i),   eps_i from grad L_{B_i}(w),

which is m-sharpness (section 4.1 of the paper), m = |B_i|. Averaging the
gradients *before* they enter gives every shard the same eps: full-batch
sharpness, silently. Ask for that with `sync` instead. Likewise use
`jax.shard_map` with `check_vma=False`: by default it sums the gradient of
replicated parameters over the shards before anybody sees it. And accumulate
gradients with smaller shards, as `sam_jax.train` does with `config.sam.m`:
`optax.MultiSteps` around SAM descends along its last micro-batch alone.
"""

import itertools
import math
import numbers
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# `grad_fn(params, ascent_step) -> gradient`, as in `optax.contrib.sam`.
GradFn = Callable[[optax.Params, Any], Any]
# Devices that share a perturbation: nobody else, everybody on the axis, or
# (axis name, groups of positions on the axis).
Sync = None | str | tuple[str, Sequence[Sequence[int]]]


class SharpnessAwareState(NamedTuple):
  """State of `sharpness_aware`: a step count and the last step's scalars.

  The scalars belong to the shard that computed them: average them over the
  devices before they leave a `pmap` through `out_axes=None`.
  """

  count: jax.typing.ArrayLike  # shape=(), dtype=int32
  gradient_norm: jax.typing.ArrayLike  # shape=(), float32; ||g||_2 at w
  perturbation_norm: jax.typing.ArrayLike  # shape=(), float32; ||eps||_p
  cosine: jax.typing.ArrayLike  # shape=(), float32; between eps and g_SAM
  perturbed_value: jax.typing.ArrayLike  # shape=(), float32; L(w + eps) or nan


def sharpness_aware(
  rho: optax.ScalarOrSchedule,
  *,
  p: float = 2.0,
  adaptive: bool = False,
  eta: float = 0.01,
  ascent_steps: int = 1,
  sync: Sync = None,
  every: int = 1,
  mask: Any | Callable[[optax.Params], Any] | None = None,
  surrogate_gap: float = 0.0,
  second_order: bool = False,
  has_value: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Replaces the gradient at `params` by the sharpness-aware gradient.

  `update(updates, state, params, grad_fn=grad_fn)` takes the shard's gradient
  at `params` and `grad_fn(params, ascent_step) -> gradient`, the signature of
  `optax.contrib.sam`'s opaque mode; `ascent_step` counts from 0, and is -1
  where `second_order` differentiates the gradient at `params`. Gradients have
  the shapes and dtypes of `params`; norms are taken in float32.

  Args:
    rho: Radius of the neighbourhood, a float or a schedule of the step count.
      With `rho == 0` nothing is perturbed and `grad_fn` is never traced.
    p: Norm of the neighbourhood, in [1, inf].
    adaptive: ASAM (Kwon et al., ICML 2021): `||eps / (|w| + eta)||_p <= rho`,
      a neighbourhood that follows the scale of every weight.
    eta: ASAM's offset, only used if `adaptive`.
    ascent_steps: Steps of projected gradient ascent (the paper's appendix C.3).
      Each goes `rho` far and is then pulled back radially to the neighbourhood,
      which is the projection if p = 2. The first lands on its boundary: SAM.
    sync: Which devices share one perturbation. None: none, the m-sharpness of
      the paper. An axis name: all devices of the axis. `(axis_name, groups)`:
      those of a group, as `axis_index_groups` of `jax.lax.pmean`. Only ascent
      gradients are averaged, never the result (see `mean_across`).
    every: The sharpness-aware gradient on every `every`-th step, starting with
      the first; the plain gradient between them.
    mask: Leaves to perturb: a tree of bools like `params`, or a function from
      `params` to it, as in `optax.masked`. Norms run over those leaves alone.
    surrogate_gap: GSAM's alpha (Zhuang et al., ICLR 2022): subtracts alpha
      times the part of this shard's gradient that is orthogonal to its
      sharpness-aware gradient.
    second_order: Adds the term (d eps/dw)^T g_SAM that SAM drops (appendix C.4
      of the paper), with the Hessian of `grad_fn`: a step of about four
      gradients. Only for one ascent step and p = 2.
    has_value: `grad_fn` returns `(value, gradient)`, as `jax.value_and_grad`
      does; the state keeps the value, so that sharpness comes for free.

  Returns:
    The transformation. A zero or non-finite ascent gradient yields a zero
    perturbation.

  Raises:
    ValueError: An argument is out of range; in `update`, `params` or `grad_fn`
      is missing, or `grad_fn` returns something else. The message names the
      argument and its value.
  """
  _check_known(p, eta, ascent_steps, every, surrogate_gap)
  # A traced rho, as of optax.inject_hyperparams, is known too late for a check.
  if not callable(rho) and not isinstance(rho, jax.core.Tracer):
    _check_number("rho", rho)
  _check_number("p", p, least=1.0, most=math.inf)
  _check_number("eta", eta)
  _check_number("surrogate_gap", surrogate_gap)
  _check_count("ascent_steps", ascent_steps)
  _check_count("every", every)
  _check_sync(sync)
  _check_second_order(second_order, p, ascent_steps)
  ascent = _Ascent(
    p, adaptive, eta, ascent_steps, sync, mask, second_order, has_value
  )
  is_off = isinstance(rho, numbers.Real) and rho == 0

  def init_fn(params: optax.Params) -> SharpnessAwareState:
    del params
    zero = jnp.zeros((), jnp.float32)
    nan = jnp.full_like(zero, jnp.nan)
    return SharpnessAwareState(jnp.zeros((), jnp.int32), zero, zero, zero, nan)

  def sharpness_aware_gradient(gradient, state, params, rho_t, grad_fn):
    norm = _norm(gradient, 2)
    sam_gradient, value, radius, cosine = _ascend(
      gradient, params, rho_t, grad_fn, ascent
    )
    if surrogate_gap:
      sam_gradient = _narrow_gap(sam_gradient, gradient, surrogate_gap)
    scalars = (norm, radius, cosine, value)
    return sam_gradient, SharpnessAwareState(state.count, *scalars)

  def plain_gradient(gradient, state):
    norm = _norm(gradient, 2)
    scalars = (norm, jnp.zeros_like(norm), jnp.ones_like(norm))
    nothing = jnp.full_like(norm, jnp.nan)
    return gradient, SharpnessAwareState(state.count, *scalars, nothing)

  def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
    del extra_args
    _check_update_arguments(params, grad_fn)
    rho_t = rho(state.count) if callable(rho) else rho
    if is_off:
      updates, new_state = plain_gradient(updates, state)
    elif every == 1:
      updates, new_state = sharpness_aware_gradient(
        updates, state, params, rho_t, grad_fn
      )
    else:
      updates, new_state = jax.lax.cond(
        state.count % every == 0,
        lambda g: sharpness_aware_gradient(g, state, params, rho_t, grad_fn),
        lambda g: plain_gradient(g, state),
        updates,
      )
    count = optax.safe_increment(state.count)
    return updates, new_state._replace(count=count)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mean_across(axis_name: str) -> optax.GradientTransformation:
  """Averages the updates over the devices of `axis_name`: one all-reduce."""
  return optax.stateless(lambda updates, _: jax.lax.pmean(updates, axis_name))


def sam(
  base_optimizer: optax.GradientTransformation,
  rho: optax.ScalarOrSchedule = 0.05,
  axis_name: str | None = None,
  **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
  """SAM around `base_optimizer`, for local gradients (see the module's text).

  Gradient clipping belongs *inside* `base_optimizer`, after the mean:
  `sam(optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(0.1)))`. Chained
  outside it would clip the ascent gradient, whose length does not matter.

  Args:
    base_optimizer: Descends along the (averaged) sharpness-aware gradient.
    rho: Radius of the neighbourhood, or a schedule of it.
    axis_name: Axis of the devices to average over; None for a single shard.
    **kwargs: The keyword arguments of `sharpness_aware`.

  Returns:
    The chain sharpness_aware -> mean_across -> base_optimizer. Its `update`
    needs `params` and `grad_fn=`.

  Raises:
    ValueError: As `sharpness_aware` does.
  """
  mean = [] if axis_name is None else [mean_across(axis_name)]
  return optax.chain(sharpness_aware(rho, **kwargs), *mean, base_optimizer)


def dual_direction(gradient: Any, p: float) -> Any:
  """Returns argmax <v, gradient> over ||v||_p <= 1 (the paper's eq. 2).

  Args:
    gradient: Tree of arrays, taken as one long vector.
    p: Norm, in [1, inf]. As p goes to 1, the direction goes to the largest
      entries of the gradient, which share it evenly where several are equal.

  Returns:
    A tree like `gradient`, float32, with ||v||_p = 1; zeros where the norm of
    the gradient is zero or not finite in float32.
  """
  gradient = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
  size = _norm(gradient, 2 if p == 2 else math.inf)
  is_usable = (size > 0) & jnp.isfinite(size)
  inverse = jnp.where(is_usable, 1 / jnp.where(is_usable, size, 1.0), 0.0)

  # |g| / max|g| is in [0, 1]: no power of it overflows, whatever q.
  if p == 2:
    direction = jax.tree.map(lambda g: g * inverse, gradient)
  elif p == math.inf:
    direction = jax.tree.map(jnp.sign, gradient)
  elif p == 1:
    is_largest = jax.tree.map(lambda g: jnp.abs(g) == size, gradient)
    share = 1 / jnp.maximum(_sum(is_largest), 1)
    direction = jax.tree.map(
      lambda g, m: jnp.sign(g) * m * share, gradient, is_largest
    )
  else:
    q = p / (p - 1)
    relative = jax.tree.map(lambda g: jnp.abs(g) * inverse, gradient)
    total = _sum(jax.tree.map(lambda r: r**q, relative))
    length = jnp.where(is_usable, total, 1.0) ** (1 / p)
    direction = jax.tree.map(
      lambda g, r: jnp.sign(g) * r ** (q - 1) / length, gradient, relative
    )
  return jax.tree.map(lambda d: jnp.where(is_usable, d, 0.0), direction)


class _Ascent(NamedTuple):
  """The arguments of `sharpness_aware` that shape its gradient."""

  p: float
  adaptive: bool
  eta: float
  steps: int
  sync: Sync
  mask: Any
  second_order: bool
  has_value: bool


def _ascend(gradient, params, rho, grad_fn, ascent):
  """Maximises the loss over the neighbourhood of `params`.

  Returns:
    The gradient at w + eps, the value there (or nan), ||eps||_p, and the cosine
    between eps and that gradient.
  """
  u = None
  for step in range(ascent.steps):
    ascent_gradient = _mean(gradient, ascent.sync)
    neighbour, u, eps = _climb(ascent_gradient, params, u, rho, ascent)
    # Behind the barrier nothing needs the gradient at w or eps, whose memory
    # then serves the next pass: SAM takes one buffer more than SGD.
    neighbour, radius, length = jax.lax.optimization_barrier(
      (neighbour, _norm(eps, ascent.p), _norm(eps, 2))
    )
    output = grad_fn(neighbour, step)
    value, gradient = _split(output, params, ascent.has_value)
  inner = _inner(_subtract(neighbour, params), gradient)
  cosine = _divide(inner, length * _norm(gradient, 2))
  if ascent.second_order:
    gradient = _through_perturbation(
      gradient, ascent_gradient, params, rho, grad_fn, ascent
    )
  return gradient, jnp.asarray(value, jnp.float32), radius, cosine


def _split(output, params, has_value):
  """Splits what `grad_fn` returned into the value, or nan, and the gradient."""
  expected = (0.0, params) if has_value else params
  if jax.tree.structure(output) != jax.tree.structure(expected):
    raise ValueError(
      f"With has_value = {has_value} grad_fn must return"
      f" {'(value, gradient)' if has_value else 'a gradient'}, the gradient a"
      f" tree like params, got {jax.tree.structure(output)}. Functions of"
      " jax.value_and_grad need has_value = True, those of jax.grad False."
    )
  return output if has_value else (jnp.nan, output)


def _climb(gradient, params, u, rho, ascent):
  """Takes one step of ascent along `gradient`, the first from `u = None`.

  With T = |w| + eta (ASAM) or 1 (SAM) the neighbourhood is a p-norm ball of
  u = eps / T.

  Returns:
    w + T u in the dtypes of w, the new u, and T u.
  """
  mask = _resolve_mask(ascent.mask, params)
  scale = jax.tree.map(
    lambda w: (
      jnp.abs(w.astype(jnp.float32)) + ascent.eta if ascent.adaptive else 1.0
    ),
    params,
  )
  scaled = jax.tree.map(
    lambda g, t, m: t * g.astype(jnp.float32) if m else jnp.zeros(()),
    gradient,
    scale,
    mask,
  )
  move = jax.tree.map(lambda d: rho * d, dual_direction(scaled, ascent.p))
  u = move if u is None else _into_ball(_add(u, move), rho, ascent.p)
  eps = jax.tree.map(jnp.multiply, scale, u)
  neighbour = jax.tree.map(
    lambda w, e, m: (w + e).astype(w.dtype) if m else w, params, eps, mask
  )
  return neighbour, u, eps


def _through_perturbation(
  sam_gradient, ascent_gradient, params, rho, grad_fn, ascent
):
  """Returns the gradient of L(w + eps(w)), eps(w) = f(g(w), w) and no constant.

  That is (I + df/dw)^T g_SAM + H (df/dg)^T g_SAM, H the Hessian at w.
  """
  sam_gradient = _mean(sam_gradient, ascent.sync)
  _, pull_back = jax.vjp(
    lambda g, w: _climb(g, w, None, rho, ascent)[0], ascent_gradient, params
  )
  along_gradient, along_params = pull_back(sam_gradient)

  def gradient_at(w):
    return _split(grad_fn(w, -1), params, ascent.has_value)[1]

  _, curvature = jax.jvp(gradient_at, (params,), (along_gradient,))
  return _add(along_params, curvature)


def _narrow_gap(sam_gradient, gradient, alpha):
  """Subtracts alpha times the part of `gradient` orthogonal to the other."""
  along = _divide(_inner(gradient, sam_gradient), _norm(sam_gradient, 2) ** 2)
  return jax.tree.map(
    lambda s, g: s - alpha * (g - along.astype(s.dtype) * s),
    sam_gradient,
    gradient,
  )


def _into_ball(vector, radius, p):
  """Scales `vector` down to ||vector||_p <= radius."""
  norm = _norm(vector, p)
  shrink = jnp.where(norm > radius, _divide(radius, norm), 1.0)
  return jax.tree.map(lambda v: shrink * v, vector)


def _mean(gradient, sync):
  """Averages over the devices that share a perturbation."""
  if sync is None:
    return gradient
  axis_name, groups = (sync, None) if isinstance(sync, str) else sync
  return jax.lax.pmean(gradient, axis_name, axis_index_groups=groups)


def _resolve_mask(mask, params):
  if mask is None:
    return jax.tree.map(lambda _: True, params)
  return mask(params) if callable(mask) else mask


def _sum(tree):
  """Sum of all entries, in float32."""
  return sum(jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(tree))


def _inner(a, b):
  """Inner product of two trees, in float32."""
  return _sum(
    jax.tree.map(
      lambda x, y: x.astype(jnp.float32) * y.astype(jnp.float32), a, b
    )
  )


def _norm(tree, p):
  """p-norm of a tree taken as one vector, in float32."""
  leaves = [jnp.abs(x.astype(jnp.float32)) for x in jax.tree.leaves(tree)]
  if p == 2:
    total = _sum([x**2 for x in leaves])
    is_zero = total == 0  # where the derivative of the root is infinite
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, total)))
  largest = jnp.max(jnp.stack([jnp.max(x, initial=0) for x in leaves]))
  if p == math.inf:
    return largest
  relative = [_divide(x, largest) ** p for x in leaves]
  return largest * _sum(relative) ** (1 / p)


def _add(a, b):
  return jax.tree.map(jnp.add, a, b)


def _subtract(a, b):
  return jax.tree.map(jnp.subtract, a, b)


def _divide(numerator, denominator):
  """Division that gives 0 where the denominator is 0."""
  is_zero = denominator == 0
  return jnp.where(is_zero, 0.0, numerator / jnp.where(is_zero, 1, denominator))


def _check_known(*arguments):
  """Raises ValueError on a traced argument, which comes too late."""
  if any(isinstance(value, jax.core.Tracer) for value in arguments):
    raise ValueError(
      "Of sharpness_aware's arguments only rho may be traced. With"
      " optax.inject_hyperparams set static_args=('p', 'eta', 'ascent_steps',"
      " 'every', 'surrogate_gap')."
    )


def _check_number(name, value, least=0.0, most=sys.float_info.max):
  """Raises ValueError on what is no number from `least` to `most`."""
  try:
    is_right = least <= float(value) <= most and not isinstance(value, str)
  except (TypeError, ValueError):
    is_right = False
  if not is_right:
    limit = "in [1, inf]" if most == math.inf else f"finite and >= {least:g}"
    raise ValueError(
      f"{name} must be a number, {limit}, got {name} = {value!r}."
    )


def _check_count(name, value):
  """Raises ValueError on what is no integer from 1 on."""
  try:
    is_right = operator.index(value) >= 1
  except TypeError:
    is_right = False
  if not is_right:
    raise ValueError(f"{name} must be an integer >= 1, got {name} = {value!r}.")


def _check_sync(sync):
  """Raises ValueError on what does not say who shares a perturbation."""
  if sync is None or isinstance(sync, str):
    return
  try:
    axis_name, groups = sync
    positions = sorted(itertools.chain(*groups))
    is_right = (
      isinstance(axis_name, str)
      and positions == list(range(len(positions)))
      and len({len(group) for group in groups}) == 1
    )
  except (TypeError, ValueError):
    is_right = False
  if not is_right:
    raise ValueError(
      "sync must be None, an axis name, or (axis name, axis_index_groups),"
      f" groups of one size that cover the axis, got sync = {sync!r}."
    )


def _check_second_order(second_order, p, ascent_steps):
  if second_order and (p != 2 or ascent_steps != 1):
    raise ValueError(
      "second_order needs p = 2, where eps is a smooth function of the"
      f" gradient, and ascent_steps = 1, got p = {p} and ascent_steps ="
      f" {ascent_steps}."
    )


def _check_update_arguments(params, grad_fn):
  if params is None:
    raise ValueError(
      "sharpness_aware needs the parameters: update(updates, state, params,"
      " grad_fn=grad_fn), got params = None."
    )
  if grad_fn is None:
    raise ValueError(
      "sharpness_aware needs the gradient function: update(updates, state,"
      " params, grad_fn=grad_fn) with grad_fn(params, ascent_step) -> gradient,"
      " got grad_fn = None."
    )
