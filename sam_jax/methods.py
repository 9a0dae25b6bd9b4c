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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sam_jax import masks
from sam_jax.cheap_methods import (
  ae_sam,
  every_k,
  look_sam,
  momentum_sam,
  single_step_sam,
)
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
from sam_jax.reductions import norm
from sam_jax.sam import SharpnessAwareState, sharpness_aware

__all__ = [
  "ae_sam",
  "asam",
  "every_k",
  "friendly_sam",
  "gsam",
  "look_sam",
  "momentum_sam",
  "sam_on",
  "single_step_sam",
  "weighted_sam",
]


@spell_out_kwargs
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
  refuse("asam", kwargs, adaptive=False)
  adaptive = (lambda params: True) if scale_biases else True
  return sharpness_aware(rho, **{**kwargs, "adaptive": adaptive})


@spell_out_kwargs
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
  refuse("sam_on", kwargs, mask=None)
  return sharpness_aware(rho, **{**kwargs, "mask": _normalization})


@spell_out_kwargs
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
  check("surrogate_gap", surrogate_gap)
  return combine(
    sharpness_aware(rho, **kwargs),
    lambda g, s: add_scaled(g, surrogate_gap, orthogonal(s, g)),
  )


@spell_out_kwargs
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
  check("gamma", gamma, below=1.0)
  weight = gamma / (1 - gamma)
  return combine(
    sharpness_aware(rho, **kwargs),
    lambda g, s: add_scaled(g, weight, optax.tree.sub(s, g)),
  )


class FriendlySamState(NamedTuple):
  """State of `friendly_sam`."""

  sam: SharpnessAwareState
  average: optax.Updates  # tree like params, float32; m


@spell_out_kwargs
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
  check("sigma", sigma)
  check("decay", decay, below=1.0)
  refuse("friendly_sam", kwargs, ascent_steps=1, surrogate_gap=0)
  sam = sharpness_aware(rho, **kwargs)

  def init_fn(params):
    return FriendlySamState(sam.init(params), zeros(params))

  def update_fn(updates, state, params=None, **extra_args):
    noise = add_scaled(updates, -sigma, state.average)
    sam_updates, sam_state = sam.update(noise, state.sam, params, **extra_args)
    sam_state = sam_state._replace(gradient_norm=norm(updates))
    old = jnp.where(state.sam.count == 0, 0, decay)
    average = jax.tree.map(
      lambda m, g: old * m + (1 - old) * g, state.average, updates
    )
    # A step without a perturbation returns its input, which is the noise.
    is_perturbed = sam_state.perturbation_norm > 0
    updates = select(is_perturbed, sam_updates, updates)
    return updates, FriendlySamState(sam_state, average)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _normalization(params):
  mask = masks.normalization(params)
  if not any(jax.tree.leaves(mask)):
    raise ValueError(
      "sam_on perturbs normalization layers, and no module of params has a"
      " `scale`: choose a network with such layers, or another method."
    )
  return mask
