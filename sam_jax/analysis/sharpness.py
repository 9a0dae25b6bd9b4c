"""Sharpness and m-sharpness of a trained network.

  sharpness = max_{||eps||_p <= rho} L(w + eps) - L(w)

over a whole set of examples (Foret et al., 2021, section 2) or, for
m-sharpness, the mean over disjoint groups of m examples of the sharpness of
each group (section 4.1). The search for the maximum is that of SAM, with one or
several ascent steps, and reports the highest loss that it meets: more steps
never report less. After each step, eps is scaled back into the neighborhood.
For p = 2 this is the projection. For other norms the result is in the
neighborhood, but is not the nearest point of it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import wording
from sam_jax.analysis.objective import (
  ExampleLosses,
  Params,
  as_partial,
  replicated_sharding,
)
from sam_jax.arguments import is_traced
from sam_jax.sam import Ball, sharpness_aware
from sam_jax.training import parallel


class Sharpness(NamedTuple):
  """The sharpness at w, in nats.

  Attributes:
    loss: Loss at w.
    perturbed_loss: Highest loss found in the neighborhood of w.
  """

  loss: float
  perturbed_loss: float

  @property
  def value(self) -> float:
    """The increase of the loss within the neighborhood."""
    return self.perturbed_loss - self.loss


def sharpness(
  value_and_grad: Callable[[Params], tuple[jax.Array, Params]],
  params: Params,
  rho: float,
  **kwargs: Any,
) -> Sharpness:
  """Measure the sharpness of one objective.

  Each call compiles the ascent: `sharpness_fn` does so once for many points.

  Args:
    value_and_grad: params -> loss and gradient, for example
      `Objective.value_and_grad`.
    params: The point w, a tree of arrays.
    rho: Radius of the neighborhood.
    **kwargs: `p`, `adaptive`, `eta`, `ascent_steps`, `mask` of
      `sam_jax.sharpness_aware`.

  Returns:
    The loss at `params`, and the highest one of the ascent.

  Raises:
    ValueError: An argument is out of range.
  """
  return sharpness_fn(value_and_grad, **kwargs)(params, rho)


def sharpness_fn(
  value_and_grad: Callable[[Params], tuple[jax.Array, Params]],
  *,
  ascent_steps: int = 1,
  **ball: Any,
) -> Callable[[Params, float], Sharpness]:
  """Return `sharpness` as a function of parameters and rho, compiled once.

  Args:
    value_and_grad: params -> loss and gradient. It is called as it is: compile
      it.
    ascent_steps: As for `sharpness`.
    **ball: As for `sharpness`.

  Returns:
    (params, rho) -> the loss at `params`, and the highest one of the ascent.

  Raises:
    ValueError: An argument is out of range; here, or in a call for rho.
  """
  sharpness_aware(0.0, ascent_steps=ascent_steps, **ball)  # checks them
  # One program: outside of one, each operation on each shape would be its own.
  ascend = jax.jit(Ball(**ball).ascend)

  def measure(params, rho):
    sharpness_aware(rho)  # checks it
    loss, gradient = value_and_grad(params)
    losses = [loss]
    if rho > 0:
      losses = _losses_of_ascent(
        ascend, value_and_grad, params, gradient, rho, ascent_steps
      )
    return Sharpness(float(loss), float(np.max(jax.device_get(losses))))

  return measure


def _losses_of_ascent(
  ascend: Callable[..., tuple[Params, Params]],
  value_and_grad: Callable[[Params], tuple[jax.Array, Params]],
  params: Params,
  gradient: Params,
  rho: jax.typing.ArrayLike,
  ascent_steps: int,
) -> list[jax.Array]:
  """Return the loss at each point that the ascent of SAM meets."""
  losses, u = [], None
  for _ in range(ascent_steps):
    perturbed, u = ascend(params, gradient, rho, u)
    loss, gradient = value_and_grad(perturbed)
    losses.append(loss)
  return losses


def group_sharpness(
  example_losses: ExampleLosses,
  params: Params,
  rho: jax.typing.ArrayLike,
  group: dict[str, jax.Array],
  *,
  ascent_steps: int = 1,
  **ball: Any,
) -> tuple[jax.Array, jax.Array]:
  """Return the losses of one group of examples at w and at its own w + eps.

  `m_sharpness` averages them over groups.

  Args:
    example_losses: (params, batch) -> loss of each example [m].
    params: The point w, a tree of arrays.
    rho: Radius of the neighborhood; may be traced.
    group: Arrays [m, ...], an entry for each example of the group.
    ascent_steps: As for `sharpness`.
    **ball: As for `sharpness`.

  Returns:
    Two float32 (); the second one is the highest of the ascent.

  Raises:
    ValueError: An argument is out of range.
  """
  sharpness_aware(rho, ascent_steps=ascent_steps, **ball)  # checks them
  value_and_grad = jax.value_and_grad(lambda w: example_losses(w, group).mean())
  loss, gradient = value_and_grad(params)
  if not is_traced(rho) and rho == 0:
    return loss, loss
  losses = _losses_of_ascent(
    Ball(**ball).ascend, value_and_grad, params, gradient, rho, ascent_steps
  )
  return loss, jnp.max(jnp.stack(losses))


def m_sharpness(
  example_losses: ExampleLosses,
  params: Params,
  examples: dict[str, np.ndarray],
  m: int,
  rho: float,
  devices: Sequence[jax.Device] | None = None,
  **kwargs: Any,
) -> Sharpness:
  """Measure the mean sharpness of disjoint groups of m consecutive examples.

  Args:
    example_losses: (params, batch) -> loss of each example [n].
    params: The point w, a tree of arrays.
    examples: Arrays [N, ...], an entry for each example.
    m: Examples that share a perturbation.
    rho: Radius of the neighborhood.
    devices: Devices to use; None for all of this host.
    **kwargs: As for `sharpness`.

  Returns:
    Means over the groups.

  Raises:
    ValueError: There are fewer than m examples, or an argument is out of range.
  """
  measure = m_sharpness_fn(example_losses, examples, m, devices, **kwargs)
  return measure(params, rho)


def m_sharpness_fn(
  example_losses: ExampleLosses,
  examples: dict[str, np.ndarray],
  m: int,
  devices: Sequence[jax.Device] | None = None,
  **kwargs: Any,
) -> Callable[..., Sharpness]:
  """Return `m_sharpness` as a function of parameters and rho, compiled once.

  Each device takes one group at a time. A last group of fewer than m examples
  is left out.

  Args:
    example_losses: (params, batch) -> loss of each example [n].
    examples: Arrays [N, ...], an entry for each of the N examples.
    m: Examples that share a perturbation.
    devices: Devices to use; None for all of this host.
    **kwargs: As for `sharpness`.

  Returns:
    (params, rho, on_groups) -> means over the N // m groups. The optional
    `on_groups` is called with a number of groups when they are done.

  Raises:
    ValueError: There are fewer than m examples, or an argument is out of range.
  """
  of_group = functools.partial(group_sharpness, **kwargs)
  mean_of_groups = mean_over_groups(
    of_group, example_losses, examples, m, devices
  )

  def measure(params, rho, on_groups=lambda count: None):
    sharpness_aware(rho, **kwargs)  # checks rho, which is traced below
    return mean_of_groups(params, rho, on_groups)

  return measure


def mean_over_groups(
  of_group: Callable[..., tuple[jax.Array, jax.Array]],
  example_losses: ExampleLosses,
  examples: dict[str, np.ndarray],
  m: int,
  devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Sharpness]:
  """Compile the mean of losses over disjoint groups of m consecutive examples.

  Args:
    of_group: (example_losses, params, number, group) -> losses at w and near it
      of one group, arrays [m, ...]. The number is traced.
    example_losses: (params, batch) -> loss of each example [n].
    examples: Arrays [N, ...], an entry for each of the N examples.
    m: Examples of a group.
    devices: Devices to use; None for all of this host.

  Returns:
    (params, number, on_groups) -> means over the N // m groups, as in
    `m_sharpness_fn`.

  Raises:
    ValueError: There are fewer than m examples.
  """
  devices = devices or jax.local_devices()
  total = len(next(iter(examples.values())))
  count = total // m if m > 0 else 0
  if not count:
    raise ValueError(
      f"m = {m} makes no group of {wording.count(total, 'example')}; m can"
      f" be 1 to {total}."
    )
  mapped = parallel.map_over_devices(
    of_group, in_axes=(None, None, None, 0), out_axes=0, devices=devices
  )
  everywhere = replicated_sharding(devices)
  losses = jax.device_put(as_partial(example_losses), everywhere)

  def mean(params, number, on_groups=lambda count: None):
    params = jax.device_put(params, everywhere)
    results = []
    for groups, used in _groups_of_devices(examples, m, count, len(devices)):
      pairs = jax.device_get(mapped(losses, params, np.float32(number), groups))
      results.append(np.stack(pairs, axis=-1)[:used])
      on_groups(used)
    loss, perturbed = np.concatenate(results).astype(np.float64).mean(axis=0)
    return Sharpness(float(loss), float(perturbed))

  return mean


def _groups_of_devices(
  examples: dict[str, np.ndarray], m: int, count: int, num_devices: int
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
  """Yield a group of examples for each device, and the number of real groups.

  Args:
    examples: Arrays [N, ...].
    m: Examples of a group.
    count: Number of all groups.
    num_devices: Groups to yield at a time.

  Yields:
    Arrays [num_devices, m, ...], and the number of real groups among them.
    Copies of the last group fill the devices that remain.
  """
  for start in range(0, count, num_devices):
    numbers = np.arange(start, start + num_devices)
    used = int(np.sum(numbers < count))
    indices = np.minimum(numbers, count - 1)[:, None] * m + np.arange(m)
    yield {name: value[indices] for name, value in examples.items()}, used
