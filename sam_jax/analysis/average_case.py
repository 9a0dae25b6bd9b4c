"""Average-case sharpness: the rise of the loss under Gaussian perturbations.

  E_eps L(w + eps) - L(w),  eps_i ~ N(0, (sigma c_i)^2)

with c = 1, or c = |w| for the adaptive form, which does not change when the
weights of a layer are scaled and those of the next one scaled back.

Reference: Andriushchenko et al. (ICML 2023), https://arxiv.org/abs/2302.07011,
section 3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sam_jax.analysis import monte_carlo
from sam_jax.analysis.objective import Params


def average_sharpness(
  value: Callable[[Params], jax.Array],
  params: Params,
  sigma: float,
  *,
  draws: int,
  seed: int = 0,
  adaptive: bool = False,
  on_draw: Callable[[int], Any] = lambda done: None,
) -> monte_carlo.Estimate:
  """Measure the average-case sharpness of one objective.

  A draw is the mean of eps and -eps: the slope of the loss, which has no part
  in the average, has none in its standard error either.

  Args:
    value: params -> loss, for example `Objective.value`.
    params: The point w, a tree of arrays.
    sigma: Standard deviation of the perturbation.
    draws: Number of pairs eps and -eps; each takes the loss twice.
    seed: Seed of the perturbations.
    adaptive: Multiply the perturbation of each weight by its absolute value.
    on_draw: Called with 1 after each draw.

  Returns:
    The increase of the loss, in nats.

  Raises:
    ValueError: `draws` < 1.
  """
  loss = float(value(params))

  def rise(number: int) -> float:
    noise = monte_carlo.normal_like(params, [seed, number])
    above, below = (
      float(value(_perturb(params, noise, each, adaptive)))
      for each in (sigma, -sigma)
    )
    return (above + below) / 2 - loss

  return monte_carlo.mean_of_draws(rise, draws, on_draw)


@jax.jit(static_argnames="adaptive")
def _perturb(
  params: Params, noise: Params, sigma: float, adaptive: bool
) -> Params:
  return jax.tree.map(
    lambda w, n: w + sigma * n * (jnp.abs(w) if adaptive else 1), params, noise
  )
