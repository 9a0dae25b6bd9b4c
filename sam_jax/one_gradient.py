"""Methods that choose the point at which a step takes its only gradient.

The other methods get the gradient at the parameters, and take a second one at a
point that depends on it. In a loop of your own::

  method = momentum_sam(rho=0.3)
  gradient = jax.grad(loss)(method.point(state, params))
  updates, state = method.update(gradient, state, params)

`optax.chain` keeps no `point`: chain what comes after, and call the method
before it.
"""

from collections.abc import Callable
from typing import Any

import optax


class OneGradient(optax.GradientTransformationExtraArgs):
  """A transformation that chooses the point of the only gradient of a step.

  Attributes:
    point: (state, params) -> parameters at which to take the gradient that
      `update` gets. The state is the average over all shards.
  """

  point: Callable[[Any, Any], Any]

  def __new__(
    cls,
    init: Callable[[Any], Any],
    update: Callable[..., Any],
    point: Callable[[Any, Any], Any],
  ) -> "OneGradient":
    """Return the transformation of these three functions."""
    self = super().__new__(cls, init, update)
    self.point = point
    return self


def gradient_point(
  transformation: optax.GradientTransformation, state: Any, params: Any
) -> Any:
  """Return the parameters at which a step takes its first gradient.

  Args:
    transformation: A method. All but a `OneGradient` take it at `params`.
    state: Its state.
    params: The parameters.
  """
  if isinstance(transformation, OneGradient):
    return transformation.point(state, params)
  return params
