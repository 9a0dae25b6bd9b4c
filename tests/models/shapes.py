"""Shapes of networks, without the work of tracing equal layers again."""

import contextlib
import functools
from collections.abc import Iterator
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

  Shapes do not depend on values: draw no parameters, and trace a submodule once
  for each shape of its arguments.

  Args:
    module: The module.
    *args: Arguments of its call, arrays or shapes.
    **kwargs: Keyword arguments of its call.

  Returns:
    Output and variables, trees of `jax.ShapeDtypeStruct`.
  """
  init = functools.partial(module.init_with_output, **kwargs)
  with parameters_of_zeros(), nn.intercept_methods(_call_once):
    return jax.eval_shape(init, jax.random.key(0), *args)


@contextlib.contextmanager
def parameters_of_zeros() -> Iterator[None]:
  """Initialize parameters with zeros, of the shapes that layers ask for.

  Generators of random numbers are most of what initialization traces, and Linen
  traces them in every other call, too, to compare shapes.
  """
  param = nn.Module.param

  def zeros(self, name, initializer, *arguments):
    return param(self, name, _zero_initializer, *arguments)

  with mock.patch.object(nn.Module, "param", zeros):
    yield


def _zero_initializer(key, shape, dtype=jnp.float32):
  del key
  return jnp.zeros(shape, dtype)


def _call_once(call, args, kwargs, context):
  """Call a submodule, or return what an equal one has returned."""
  module = context.module
  if context.method_name != "__call__" or module.scope.parent is None:
    return call(*args, **kwargs)
  anonymous = module.clone(parent=None, name=None)
  types = [
    (x.shape, x.dtype) if hasattr(x, "shape") else x
    for x in jax.tree.leaves(args)
  ]
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
