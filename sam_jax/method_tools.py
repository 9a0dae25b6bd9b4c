"""Parts that follow-up methods of SAM share."""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from sam_jax.reductions import divide
from sam_jax.sam import sharpness_aware

Method = TypeVar("Method", bound=Callable[..., Any])


def spell_out_kwargs(method: Method) -> Method:
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


def combine(
  sam: optax.GradientTransformationExtraArgs, mix: Callable[[Any, Any], Any]
) -> optax.GradientTransformationExtraArgs:
  """Return `mix(g, g_SAM)` in place of g_SAM, with the state of `sam`."""

  def update_fn(updates, state, params=None, **extra_args):
    sam_updates, state = sam.update(updates, state, params, **extra_args)
    return mix(updates, sam_updates), state

  return optax.GradientTransformationExtraArgs(sam.init, update_fn)


def add_scaled(a, scale, b):
  """Return a + scale * b in the dtypes of `a`."""
  return jax.tree.map(lambda a, b: (a + scale * b).astype(a.dtype), a, b)


def orthogonal(a, b):
  """Return the part of `a` that is orthogonal to `b`, in float32."""
  a, b = (optax.tree.cast(tree, jnp.float32) for tree in (a, b))
  along = divide(optax.tree.vdot(a, b), optax.tree.vdot(b, b))
  return add_scaled(a, -along, b)


def select(condition, a, b):
  """Return the tree `a` where the condition holds, else `b`."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)


def zeros(params):
  """Return a float32 tree of zeros like `params`."""
  return optax.tree.zeros_like(params, dtype=jnp.float32)


def check(name: str, value: Any, below: float = math.inf) -> None:
  """Raise ValueError if `value` is not a number in [0, below)."""
  if isinstance(value, jax.Array):  # of optax.inject_hyperparams, maybe traced
    return
  if not (isinstance(value, numbers.Real) and 0 <= float(value) < below):
    raise ValueError(f"{name} must be in [0, {below}), got {name} = {value!r}.")


def refuse(method: str, kwargs: dict[str, Any], **defaults: Any) -> None:
  """Raise ValueError if an argument that `method` cannot use is set."""
  for name, default in defaults.items():
    if (value := kwargs.get(name, default)) != default:
      is_plain = isinstance(value, bool | int | float | str)
      given = f"{name} = {value!r}" if is_plain else name
      raise ValueError(
        f"{method} has no use for {given}: leave it at {default!r}."
      )
