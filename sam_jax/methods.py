"""Follow-up methods of SAM as short compositions of `sharpness_aware`.

A gradient goes in, the gradient to descend along comes out::

  optimizer = optax.chain(
    weighted_sam(rho=0.05, gamma=0.9), mean_across("batch"), optax.sgd(0.1)
  )

`rho` and `**kwargs` are the arguments of `sharpness_aware`. From the command
line: `--config.sam.method=weighted_sam --config.sam.options.gamma=0.9`.
docs/methods.md shows both, and a method in a file of your own.

Notation: g is the gradient at w, g_SAM the sharpness-aware gradient. "Cost" is
the number of gradients per step: 1 for SGD, 2 for SAM. Steps that perturb
nothing, because of `every` or rho = 0, descend along g.

`friendly_sam` and `look_sam` remember a tree of floats. With several shards,
average their state over the shards after each step, as `sam_jax.train` does.
"""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from sam_jax import masks
from sam_jax.sam import SharpnessAwareState, sharpness_aware

__all__ = [
  "asam",
  "every_k",
  "friendly_sam",
  "gsam",
  "look_sam",
  "sam_on",
  "weighted_sam",
]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _spell_out_kwargs(method: _Method) -> _Method:
  """Put the arguments of `sharpness_aware` into the signature of a method.

  `help` shows them, and `optax.inject_hyperparams` needs them there.
  """
  own = list(inspect.signature(method).parameters.values())[:-1]
  names = [parameter.name for parameter in own]
  inherited = inspect.signature(sharpness_aware).parameters
  method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    own + [inherited[name] for name in inherited if name not in names]
  )
  return method


@_spell_out_kwargs
def asam(
  rho: optax.ScalarOrSchedule, *, scale_biases: bool = False, **kwargs: Any
) -> optax.GradientTransformationExtraArgs:
  """Adaptive SAM: `||eps / T||_2 <= rho` with `T = |w| + eta`.

  The authors' code scales parameters whose name contains "weight", which in
  PyTorch includes those of normalization layers, and sets T = 1 for biases. The
  default does the same. The two rules need different radii: the authors use
  rho = 0.5 on CIFAR-10 and 1.0 on CIFAR-100 with theirs. Their class has
  eta = 0.01, as here, and their example eta = 0. Cost: 2.

  Args:
    scale_biases: Use `T = |w| + eta` for biases too.

  Reference: Kwon et al. (ICML 2021), arXiv:2102.11600; code: SamsungLabs/ASAM,
  asam.py and example_cifar.py.
  """
  _refuse("asam", kwargs, adaptive=False)
  adaptive = (lambda params: True) if scale_biases else True
  return sharpness_aware(rho, **{**kwargs, "adaptive": adaptive})


@_spell_out_kwargs
def sam_on(
  rho: optax.ScalarOrSchedule, **kwargs: Any
) -> optax.GradientTransformationExtraArgs:
  """SAM-ON: perturb the parameters of normalization layers only.

  These are the leaves of modules with a leaf named "scale", as in Flax; the
  authors' code looks for "norm" and "bn" in names. `adaptive=True` gives
  ASAM-ON. The radii of SAM do not carry over. Cost: 2.

  Raises:
    ValueError: `mask` is set or, in `update`, `params` has no such layer.

  Reference: Mueller et al. (NeurIPS 2023), arXiv:2306.04226; code:
  mueller-mp/SAM-ON, sam_on.py.
  """
  _refuse("sam_on", kwargs, mask=None)
  return sharpness_aware(rho, **{**kwargs, "mask": _normalization})


@_spell_out_kwargs
def gsam(
  rho: optax.ScalarOrSchedule,
  *,
  surrogate_gap: float,
  minimize_fp: bool = True,
  **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
  """GSAM: minimize the loss and, orthogonally to it, the surrogate gap.

  With the perturbed loss f_p and the gap h = f_p - f, the paper minimizes
  (f_p, h): g_SAM - alpha * (part of g orthogonal to g_SAM). The second form in
  the authors' JAX code minimizes (f, h): g + alpha * (part of g_SAM orthogonal
  to g). They find it more stable. In the paper rho follows the learning rate
  (`config.sam.schedule=learning_rate`). Cost: 2.

  Args:
    surrogate_gap: alpha, such as 0.6 in the authors' ViT-B/32 config.
    minimize_fp: True for the form in the paper, False for the second form.

  Reference: Zhuang et al. (ICLR 2022), arXiv:2203.08065; code:
  google-research/big_vision, trainers/proj/gsam/gsam.py.
  """
  if minimize_fp:
    return sharpness_aware(rho, surrogate_gap=surrogate_gap, **kwargs)
  _check("surrogate_gap", surrogate_gap)
  return _combine(
    sharpness_aware(rho, **kwargs),
    lambda g, s: _add_scaled(g, surrogate_gap, _orthogonal(s, g)),
  )


@_spell_out_kwargs
def weighted_sam(
  rho: optax.ScalarOrSchedule, *, gamma: float = 0.9, **kwargs: Any
) -> optax.GradientTransformationExtraArgs:
  """WSAM: minimize L + gamma / (1 - gamma) * sharpness.

  Descend along g + gamma / (1 - gamma) * (g_SAM - g). This is the coupled form,
  `decouple=False` in the authors' code: the sharpness term passes through the
  base optimizer. Their default, the decoupled form, adds the term to the update
  of the base optimizer. In SGD without momentum the forms are equal. Cost: 2.

  Args:
    gamma: Weight in [0, 1): 0 is SGD, 0.5 is SAM; the paper finds 0.8 to 0.95
      best.

  Reference: Yue et al. (KDD 2023), arXiv:2305.15817; code:
  intelligent-machine-learning/dlrover, atorch/atorch/optimizers/wsam.py.
  """
  _check("gamma", gamma, below=1.0)
  weight = gamma / (1 - gamma)
  return _combine(
    sharpness_aware(rho, **kwargs),
    lambda g, s: _add_scaled(g, weight, optax.tree.sub(s, g)),
  )


@_spell_out_kwargs
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
    return _combine(
      sharpness_aware(rho, every=every, **kwargs),
      lambda g, s: _add_scaled(g, every, optax.tree.sub(s, g)),
    )
  raise ValueError(
    f"scale must be 'rho' or 'sharpness', got scale = {scale!r}."
  )


class FriendlySamState(NamedTuple):
  """State of `friendly_sam`."""

  sam: SharpnessAwareState
  average: optax.Updates  # tree like params, float32; m


@_spell_out_kwargs
def friendly_sam(
  rho: optax.ScalarOrSchedule,
  *,
  sigma: float = 1.0,
  decay: float = 0.9,
  **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
  """Friendly SAM: perturb along the noise of the gradient.

  Ascend along g - sigma * m, where the moving average m of g estimates the
  gradient of the whole data set. As in the authors' code, m is the average of
  the steps before, and the first step ascends along g. An average that includes
  g, as in the paper, gives the same direction if sigma = 1. Every step updates
  m, whatever `every`. Cost: 2.

  Args:
    sigma: Share of the average to remove: 0 is SAM.
    decay: Decay of the average, in [0, 1): lambda in the paper. The authors'
      class has 0.9, their training script 0.95.

  Raises:
    ValueError: `ascent_steps` or `surrogate_gap` is set.

  Reference: Li et al. (CVPR 2024), arXiv:2403.12350; code: nblt/F-SAM, utils.py
  and run.sh.
  """
  _check("sigma", sigma)
  _check("decay", decay, below=1.0)
  _refuse("friendly_sam", kwargs, ascent_steps=1, surrogate_gap=0)
  sam = sharpness_aware(rho, **kwargs)

  def init_fn(params):
    return FriendlySamState(sam.init(params), _zeros(params))

  def update_fn(updates, state, params=None, **extra_args):
    noise = _add_scaled(updates, -sigma, state.average)
    sam_updates, sam_state = sam.update(noise, state.sam, params, **extra_args)
    sam_state = sam_state._replace(gradient_norm=_norm(updates))
    old = jnp.where(state.sam.count == 0, 0, decay)
    average = jax.tree.map(
      lambda m, g: old * m + (1 - old) * g, state.average, updates
    )
    # A step without a perturbation returns its input, which is the noise.
    is_perturbed = sam_state.perturbation_norm > 0
    updates = _select(is_perturbed, sam_updates, updates)
    return updates, FriendlySamState(sam_state, average)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class LookSamState(NamedTuple):
  """State of `look_sam`."""

  sam: SharpnessAwareState
  orthogonal: optax.Updates  # tree like params, float32; g_v


@_spell_out_kwargs
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
  _check("alpha", alpha)
  sam = sharpness_aware(rho, every=every, **kwargs)

  def init_fn(params):
    return LookSamState(sam.init(params), _zeros(params))

  def update_fn(updates, state, params=None, **extra_args):
    sam_updates, sam_state = sam.update(
      updates, state.sam, params, **extra_args
    )
    is_perturbed = sam_state.perturbation_norm > 0
    ratio = _divide(_norm(updates), _norm(state.orthogonal))
    reused = _add_scaled(updates, alpha * ratio, state.orthogonal)
    orthogonal = _orthogonal(sam_updates, updates)
    orthogonal = _select(is_perturbed, orthogonal, state.orthogonal)
    updates = _select(is_perturbed, sam_updates, reused)
    return updates, LookSamState(sam_state, orthogonal)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _combine(
  sam: optax.GradientTransformationExtraArgs, combine: Callable[[Any, Any], Any]
) -> optax.GradientTransformationExtraArgs:
  """Return `combine(g, g_SAM)` in place of g_SAM, with the state of `sam`."""

  def update_fn(updates, state, params=None, **extra_args):
    sam_updates, state = sam.update(updates, state, params, **extra_args)
    return combine(updates, sam_updates), state

  return optax.GradientTransformationExtraArgs(sam.init, update_fn)


def _add_scaled(a, scale, b):
  """Return a + scale * b in the dtypes of `a`."""
  return jax.tree.map(lambda a, b: (a + scale * b).astype(a.dtype), a, b)


def _orthogonal(a, b):
  """Return the part of `a` that is orthogonal to `b`, in float32."""
  a, b = (optax.tree.cast(tree, jnp.float32) for tree in (a, b))
  along = _divide(optax.tree.vdot(a, b), optax.tree.vdot(b, b))
  return _add_scaled(a, -along, b)


def _select(condition, a, b):
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)


def _norm(tree):
  return optax.tree.norm(optax.tree.cast(tree, jnp.float32))


def _zeros(params):
  return optax.tree.zeros_like(params, dtype=jnp.float32)


def _divide(a, b):
  """Return a / b, and 0 where b is 0."""
  return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _normalization(params):
  mask = masks.normalization(params)
  if not any(jax.tree.leaves(mask)):
    raise ValueError(
      "sam_on perturbs normalization layers, and no module of params has a"
      " `scale`: choose a network with such layers, or another method."
    )
  return mask


def _check(name: str, value: Any, below: float = math.inf) -> None:
  """Raise ValueError if `value` is not a number in [0, below)."""
  if isinstance(value, jax.Array):  # of optax.inject_hyperparams, maybe traced
    return
  if not (isinstance(value, numbers.Real) and 0 <= float(value) < below):
    raise ValueError(f"{name} must be in [0, {below}), got {name} = {value!r}.")


def _refuse(method: str, kwargs: dict[str, Any], **defaults: Any) -> None:
  """Raise ValueError if an argument that `method` cannot use is set."""
  for name, default in defaults.items():
    if (value := kwargs.get(name, default)) != default:
      raise ValueError(
        f"{method} has no use for {name} = {value!r}: leave it at {default!r}."
      )
