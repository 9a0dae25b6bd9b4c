"""Sharpness and m-sharpness of a trained network (sections 2 and 4 of SAM).

  sharpness = max_{||eps||_p <= rho} L(w + eps) - L(w)

over a whole set of examples, or, for m-sharpness, the mean over disjoint groups
of m examples of each group's own sharpness. The maximum is sought as SAM seeks
it, with one or several ascent steps, and is the highest loss that any of them
lands on: more steps never report less. After a step the way is scaled back to
the neighbourhood: that is the projection for p = 2 alone, and for other norms
it leads into the neighbourhood, but not to its nearest point.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sam_jax.analysis.objective import ExampleLosses, Params
from sam_jax.sam import sharpness_aware


class Sharpness(NamedTuple):
  """Loss at w, loss at the worst point found, and their difference, in nats."""

  loss: float
  perturbed_loss: float

  @property
  def sharpness(self) -> float:
    """How much the loss rises within the neighbourhood."""
    return self.perturbed_loss - self.loss


def sharpness(
  value_and_grad: Callable[[Params], tuple[jax.Array, Params]],
  params: Params,
  rho: float,
  **kwargs: Any,
) -> Sharpness:
  """Sharpness of one objective.

  Args:
    value_and_grad: params -> loss and gradient, for example
      `Objective.value_and_grad`.
    params: Where to look.
    rho: Radius of the neighbourhood.
    **kwargs: `p`, `adaptive`, `eta`, `ascent_steps`, `mask` of
      `sam_jax.sharpness_aware`.

  Returns:
    The loss at `params`, and the highest one of the ascent.

  Raises:
    ValueError: An argument is out of range.
  """
  transformation = sharpness_aware(rho, **kwargs)
  loss, gradient = value_and_grad(params)
  if rho == 0:
    return Sharpness(float(loss), float(loss))
  highest = _highest_loss(transformation, value_and_grad, params, gradient)
  return Sharpness(float(loss), float(highest))


def _highest_loss(transformation, value_and_grad, params, gradient):
  """The highest loss that `sharpness_aware` meets on its way up."""
  losses = []

  def gradient_fn(perturbed, ascent_step):
    del ascent_step
    loss, gradient = value_and_grad(perturbed)
    losses.append(loss)
    return gradient

  state = transformation.init(params)
  transformation.update(gradient, state, params, grad_fn=gradient_fn)
  return jnp.max(jnp.stack(losses))


def m_sharpness(
  example_losses: ExampleLosses,
  params: Params,
  examples: dict[str, np.ndarray],
  m: int,
  rho: float,
  devices: Sequence[Any] | None = None,
  **kwargs: Any,
) -> Sharpness:
  """Mean sharpness of disjoint groups of m examples, in their order.

  Args:
    example_losses: (params, batch) -> loss of each example [n].
    params: Where to look.
    examples: Arrays with one entry for each example.
    m: Examples that share a perturbation.
    rho: Radius of the neighbourhood.
    devices: Default: all of this host.
    **kwargs: As for `sharpness`.

  Returns:
    Means over the groups.

  Raises:
    ValueError: There are fewer than m examples, or an argument is out of range.
  """
  measure = m_sharpness_fn(example_losses, examples, m, devices, **kwargs)
  return measure(params, rho)


def group_sharpness(
  example_losses: ExampleLosses,
  params: Params,
  rho: jax.typing.ArrayLike,
  group: dict[str, jax.Array],
  **kwargs: Any,
) -> tuple[jax.Array, jax.Array]:
  """Losses of one group of examples at w and at its own w + eps.

  Args:
    example_losses: (params, batch) -> loss of each example [n].
    params: Where to look.
    rho: Radius of the neighbourhood; may be traced.
    group: Arrays with one entry for each example of the group.
    **kwargs: As for `sharpness`.

  Returns:
    Two float32 (), the second the highest of the ascent; the rest of
    `m_sharpness` is a mean over groups.

  Raises:
    ValueError: An argument is out of range.
  """

  value_and_grad = jax.value_and_grad(lambda w: example_losses(w, group).mean())
  transformation = sharpness_aware(lambda _: rho, **kwargs)
  loss, gradient = value_and_grad(params)
  return loss, _highest_loss(transformation, value_and_grad, params, gradient)


def m_sharpness_fn(
  example_losses: ExampleLosses,
  examples: dict[str, np.ndarray],
  m: int,
  devices: Sequence[Any] | None = None,
  **kwargs: Any,
) -> Callable[..., Sharpness]:
  """`m_sharpness` as a function of parameters and rho, compiled only once.

  The groups go over the devices side by side, one on each at a time. A last
  group of fewer than m examples is left out.

  Args:
    example_losses: (params, batch) -> loss of each example [n].
    examples: Arrays with one entry for each of the N examples.
    m: Examples that share a perturbation.
    devices: Default: all of this host.
    **kwargs: As for `sharpness`.

  Returns:
    (params, rho, on_groups) -> means over the N // m groups; `on_groups` is
    optional, and called with a number of groups whenever they are done.

  Raises:
    ValueError: There are fewer than m examples, or an argument is out of range.
  """
  devices = devices or jax.local_devices()
  total = len(next(iter(examples.values())))
  count = total // m if m > 0 else 0
  if not count:
    raise ValueError(
      f"m = {m} makes no group of {total:,} examples; m can be 1 to {total}."
    )

  def sharpness_of(params, rho, group):
    return group_sharpness(example_losses, params, rho, group, **kwargs)

  mapped = jax.pmap(sharpness_of, in_axes=(None, None, 0), devices=devices)

  everywhere = NamedSharding(Mesh(np.array(devices), ("_",)), PartitionSpec())

  def measure(params, rho, on_groups=lambda count: None):
    sharpness_aware(rho, **kwargs)  # checks rho, which is traced below
    params = jax.device_put(params, everywhere)
    results = []
    for groups, used in _side_by_side(examples, m, count, len(devices)):
      pairs = jax.device_get(mapped(params, np.float32(rho), groups))
      results.append(np.stack(pairs, axis=-1)[:used])
      on_groups(used)
    loss, perturbed = np.concatenate(results).astype(np.float64).mean(axis=0)
    return Sharpness(float(loss), float(perturbed))

  return measure


def _side_by_side(
  examples: dict[str, np.ndarray], m: int, count: int, num_devices: int
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
  """Yields groups [devices, m, ...] and how many of them are not repeats."""
  for start in range(0, count, num_devices):
    numbers = np.arange(start, start + num_devices)
    used = int(np.sum(numbers < count))
    indices = np.minimum(numbers, count - 1)[:, None] * m + np.arange(m)
    yield {name: value[indices] for name, value in examples.items()}, used
