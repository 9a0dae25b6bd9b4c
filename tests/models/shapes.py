"""Shapes of networks, without the work of tracing equal layers again."""

import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# Variables and outputs of the submodules that were traced, as zeros.
_traced: dict[Any, Any] = {}


def init_shapes(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
  """Return shapes of `module.init_with_output(key, *args, **kwargs)`.

  Shapes do not depend on values: draw no parameters, whose generators are most
  of what initialization traces, and trace a submodule once for each shape of
  its arguments.

  Args:
    module: The module.
    *args: Arguments of its call, arrays or shapes.
    **kwargs: Keyword arguments of its call.

  Returns:
    Output and variables, trees of `jax.ShapeDtypeStruct`.
  """
  init = functools.partial(module.init_with_output, **kwargs)
  with (
    mock.patch.object(nn.Module, "param", _param_of_zeros(nn.Module.param)),
    nn.intercept_methods(_call_once),
  ):
    return jax.eval_shape(init, jax.random.key(0), *args)


def _param_of_zeros(param):
  """Return `nn.Module.param`, which calls no initializer."""

  def zeros(self, name, initializer, shape, dtype=jnp.float32):
    del initializer
    return param(self, name, lambda key: jnp.zeros(shape, dtype))

  return zeros


def _call_once(call, args, kwargs, context):
  """Call a submodule, or return what an equal one has returned."""
  module = context.module
  if context.method_name != "__call__" or module.scope.parent is None:
    return call(*args, **kwargs)
  anonymous = module.clone(parent=None, name=None)
  types = [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(args)]
  key = anonymous, tuple(types), tuple(kwargs.items())
  if key not in _traced:
    output = call(*args, **kwargs)
    _traced[key] = jax.tree.map(_zeros, (output, module.variables))
    return output
  output, variables = _traced[key]
  for collection, values in variables.items():
    for name, value in values.items():
      module.put_variable(collection, name, value)
  return output


def _zeros(x):
  """Return zeros like `x` that take no memory."""
  return np.broadcast_to(np.zeros((), x.dtype), x.shape)
