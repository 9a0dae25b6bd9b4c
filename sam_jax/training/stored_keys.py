"""Random keys of `jax.random.key` in a state, as arrays of plain numbers.

Checkpoints, `np.stack` and copies to the host take no typed keys: the state of
a run holds their data, and only a transformation sees the keys.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sam_jax.one_gradient import OneGradient


@jax.tree_util.register_pytree_with_keys_class
class StoredKey:
  """The data of random keys, uint32 [..., n], and their implementation.

  The path of the data ends with the name of the implementation: a checkpoint
  with keys of another one does not fit.
  """

  def __init__(self, data: Any, implementation: Any):
    """Take the data, and what `jax.random.wrap_key_data` takes as `impl`."""
    self.data, self.implementation = data, implementation

  def tree_flatten_with_keys(self) -> tuple[Any, Any]:
    """Return the data as the only child."""
    name = jax.tree_util.GetAttrKey(str(self.implementation))
    return ((name, self.data),), self.implementation

  @classmethod
  def tree_unflatten(cls, implementation: Any, children: Any) -> "StoredKey":
    """Return the node with this child."""
    (data,) = children
    return cls(data, implementation)


def store_keys(
  transformation: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
  """Return a transformation with a `StoredKey` for each key of its state."""

  def init_fn(params):
    return _store(transformation.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    updates, state = transformation.update(
      updates, _wrap(state), params, **extra_args
    )
    return updates, _store(state)

  if isinstance(transformation, OneGradient):
    return OneGradient(
      init_fn,
      update_fn,
      lambda state, params: transformation.point(_wrap(state), params),
    )
  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _store(state: Any) -> Any:
  def store(leaf):
    if not isinstance(leaf, jax.Array):
      return leaf
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return leaf
    return StoredKey(jax.random.key_data(leaf), jax.random.key_impl(leaf))

  return jax.tree.map(store, state)


def _wrap(state: Any) -> Any:
  def wrap(leaf):
    if not isinstance(leaf, StoredKey):
      return leaf
    return jax.random.wrap_key_data(leaf.data, impl=leaf.implementation)

  return jax.tree.map(wrap, state, is_leaf=lambda x: isinstance(x, StoredKey))
