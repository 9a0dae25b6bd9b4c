"""Arguments of `sharpness_aware`: checks, and trees in the form of `params`."""

import math
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def is_traced(x: Any) -> bool:
  """Return True if `x` is unknown until the compiled program runs."""
  return isinstance(x, jax.core.Tracer)


def is_narrow(x: jax.Array) -> bool:
  """Return True for arrays of fewer bits than float32."""
  return jnp.finfo(x.dtype).bits < 32


def is_sharded(x: jax.Array) -> bool:
  """Return True if the type of `x` names axes of a mesh: its axes are explicit.

  JAX refuses some operations on such arrays, as it can't know the sharding of
  their result.
  """
  return any(axis is not None for axis in jax.typeof(x).sharding.spec)


def names(path: Sequence[Any]) -> tuple[str, ...]:
  """Return the keys of a leaf's path as words, such as ("Dense_0", "bias")."""
  if path and path[-1] == jax.tree_util.GetAttrKey("value"):
    path = path[:-1]  # the array in a variable of flax.nnx
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def broadcast_mask(mask: Any, params: optax.Params) -> Any:
  """Return a tree of bools like `params` from a mask as in `optax.masked`.

  Args:
    mask: A tree of bools like `params` or a prefix of one, in containers of any
      type, or a function from `params` to it.
    params: Tree of arrays.

  Raises:
    ValueError: The mask has no entry for some leaf.
  """
  mask = mask(params) if callable(mask) else mask
  given = {
    names(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask)
  }

  def lookup(path, _):
    words = names(path)
    for end in range(len(words) + 1):
      if words[:end] in given:
        value = given[words[:end]]
        if np.ndim(value) or np.asarray(value).dtype != bool:
          raise ValueError(
            f"mask must be a tree of bools, got {value!r} for"
            f" {'/'.join(words)}."
          )
        return bool(value)
    raise ValueError(
      "mask must be a tree of bools like params, or a prefix of one: it has no"
      f" entry for {'/'.join(words)}."
    )

  return jax.tree_util.tree_map_with_path(lookup, params)


def like(params: optax.Params, gradient: Any, source: str) -> Any:
  """Return `gradient` in the containers of `params`, as flax.nnx needs it.

  Args:
    params: Tree of arrays.
    gradient: Tree with the same paths; its leaves may be wrapped, as those of
      `flax.nnx.grad` are.
    source: Origin of the gradient, for the message.

  Raises:
    ValueError: The gradient has other leaves.
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  given = jax.tree_util.tree_leaves_with_path(gradient)
  wanted, got = ([names(path) for path, _ in x] for x in (leaves, given))
  if len(wanted) != len(got) or any(
    g[: len(w)] != w for w, g in zip(wanted, got, strict=True)
  ):
    wanted_text, got_text = (
      f"{len(paths)} leaves ({', '.join(map('/'.join, paths[:3]))}...)"
      for paths in (wanted, got)
    )
    raise ValueError(
      f"{source} must be a gradient like params, with {wanted_text}, got"
      f" {got_text}. jax.value_and_grad needs has_value = True, jax.grad False;"
      " drop the auxiliary output of has_aux = True."
    )
  for words, (_, w), (_, g) in zip(wanted, leaves, given, strict=True):
    if jnp.shape(w) != jnp.shape(g):
      raise ValueError(
        f"{source} has the shape {jnp.shape(g)} for {'/'.join(words)}, params"
        f" {jnp.shape(w)}."
      )
  return jax.tree.unflatten(structure, [leaf for _, leaf in given])


def split(
  output: Any, params: optax.Params, has_value: bool
) -> tuple[Any, Any]:
  """Split the output of `grad_fn` into its value, or nan, and its gradient.

  Raises:
    ValueError: The output does not match `has_value`, or its gradient is not
      like params.
  """
  source = f"With has_value = {has_value} the output of grad_fn"
  if not has_value:
    return jnp.nan, like(params, output, source)
  if not isinstance(output, tuple) or len(output) != 2:
    raise ValueError(
      f"{source} must be (value, gradient), got {type(output).__name__}."
      " jax.value_and_grad needs has_value = True, jax.grad False."
    )
  if jnp.shape(output[0]) != ():
    raise ValueError(
      f"{source} must have a scalar as its value, got the shape"
      f" {jnp.shape(output[0])}."
    )
  return output[0], like(params, output[1], source)


def check_local(grads: Any, axis_name: str, groups: Any) -> None:
  """Check that gradients differ from device to device before their mean.

  `jax.shard_map(check_vma=True)` types values by the axes along which they
  vary, and implicitly sums the gradient of replicated parameters.

  Raises:
    ValueError: JAX has summed the gradients, or there are `groups`, which
      check_vma=True does not support.
  """

  def varies(x):
    varying = getattr(jax.typeof(x), "manual_axis_type", None)
    return varying is not None and axis_name in varying.varying

  if not varies(jax.lax.axis_index(axis_name)):
    return  # pmap, vmap, or shard_map(check_vma=False)
  if groups is not None:
    raise ValueError(
      "Groups of devices that share a perturbation need"
      " jax.shard_map(check_vma=False)."
    )
  if not all(map(varies, jax.tree.leaves(grads))):
    raise ValueError(
      f"jax.shard_map has summed these gradients over {axis_name!r}: use"
      " check_vma=False, or differentiate at"
      f" jax.lax.pcast(params, {axis_name!r}, to='varying')."
    )


def check(
  rho: Any,
  p: Any,
  eta: Any,
  ascent_steps: Any,
  every: Any,
  surrogate_gap: Any,
  sync: Any,
  second_order: Any,
  is_random: bool,
) -> None:
  """Check the arguments of `sharpness_aware`, see there.

  Raises:
    ValueError: An argument is out of range; the message names it.
  """
  numbers = {"p": p, "eta": eta, "surrogate_gap": surrogate_gap}
  counts = {"ascent_steps": ascent_steps, "every": every}
  if any(map(is_traced, (numbers | counts).values())):
    raise ValueError(
      "Only rho may be traced. With optax.inject_hyperparams set"
      f" static_args={(*numbers, *counts, 'mask', 'adaptive')}."
    )
  if not callable(rho) and not is_traced(rho):
    numbers["rho"] = rho
  for name, value in numbers.items():
    low, rule = (1, "in [1, inf]") if name == "p" else (0, "finite and >= 0")
    try:
      number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
      number = math.nan
    if not low <= number or (number == math.inf and name != "p"):
      raise ValueError(f"{name} must be {rule}, got {name} = {value!r}.")
  for name, value in counts.items():
    if not hasattr(value, "__index__") or value < 1:
      raise ValueError(
        f"{name} must be an integer >= 1, got {name} = {value!r}."
      )
  if second_order and (p != 2 or ascent_steps != 1):
    raise ValueError(
      "second_order needs p = 2 and ascent_steps = 1, got"
      f" p = {p} and ascent_steps = {ascent_steps}."
    )
  if second_order and is_random:
    raise ValueError(
      "second_order has no term for random directions: drop random_key."
    )
  try:
    axis, groups = (
      (sync, [[0]]) if sync is None or isinstance(sync, str) else sync
    )
    flat = sorted(i for group in groups for i in group)
    is_right = axis is None or isinstance(axis, str)
    is_right &= flat == list(range(len(flat)))
    is_right &= len({len(group) for group in groups}) == 1
  except (TypeError, ValueError):
    is_right = False
  if not is_right:
    raise ValueError(
      "sync must be None, an axis name, or (axis name, axis_index_groups),"
      f" groups of one size that cover the axis, got sync = {sync!r}."
    )


def check_update(updates: Any, params: Any, grad_fn: Any) -> tuple[Any, Any]:
  """Check the arguments of `update`; return gradient and params as arrays.

  Raises:
    ValueError: An argument is missing, is no tree of floating-point arrays, or
      a transformation around this one hides what SAM needs.
  """
  for name, argument in (("params", params), ("grad_fn", grad_fn)):
    if argument is None:
      raise ValueError(
        "sharpness_aware needs update(updates, state, params, grad_fn=grad_fn)"
        f" with grad_fn(params, ascent_step), got {name} = None. (flax's"
        " TrainState.apply_gradients does not pass grad_fn on: call tx.update.)"
      )
  leaves = jax.tree.leaves(
    params, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
  )
  if any(isinstance(x, optax.MaskedNode) for x in leaves):
    raise ValueError(
      "optax.masked, partition or multi_transform hides parameters that grad_fn"
      " needs from sharpness_aware: chain it before them, and choose the leaves"
      " to perturb by its own mask."
    )
  _refuse_multi_steps()
  params = jax.tree.map(jnp.asarray, params)
  updates = jax.tree.map(jnp.asarray, like(params, updates, "updates"))
  for path, w in jax.tree_util.tree_leaves_with_path(params):
    if not jnp.issubdtype(w.dtype, jnp.floating):
      raise ValueError(
        "sharpness_aware perturbs floating-point parameters, got"
        f" {'/'.join(names(path))} of {w.dtype}: keep it out of params."
      )
    if is_narrow(w):
      warnings.warn(
        f"Parameters of {w.dtype} round most of a perturbation away, and SAM"
        " becomes SGD: keep float32 parameters and cast them in the loss.",
        stacklevel=3,
      )
  return updates, params


def _refuse_multi_steps() -> None:
  frame: FrameType | None = sys._getframe()
  while frame is not None:
    if frame.f_code is optax.MultiSteps.update.__code__:
      raise ValueError(
        "optax.MultiSteps around sharpness_aware mixes the gradient of all"
        " microbatches with grad_fn of the last one. Chain them the other way:"
        " optax.chain(sharpness_aware(rho), optax.MultiSteps(base,"
        " k).gradient_transformation())."
      )
    frame = frame.f_back
