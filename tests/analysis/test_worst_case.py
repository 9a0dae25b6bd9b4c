"""Worst-case sharpness against exact maxima, and other numbers of devices."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from sam_jax.analysis.worst_case import highest_loss, worst_sharpness_fn

RHO = 0.3
W = np.array([1.0, -2.0, 0.5], np.float32)
SLOPE = np.array([3.0, -4.0, 12.0], np.float32)
CURVATURE = np.array([[2, 1, 0], [1, 3, -1], [0, -1, 5]], np.float32)


def search(loss_fn, w=W, rho=RHO, **options):
  return float(highest_loss(loss_fn, w, rho, jax.random.key(0), **options))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("p", [2, math.inf])
def test_of_a_linear_loss_is_rho_times_the_dual_norm(p, adaptive):
  scaled = SLOPE * (np.abs(W) if adaptive else 1)
  expected = RHO * (np.abs(scaled).sum() if p > 2 else np.linalg.norm(scaled))
  found = search(lambda w: w @ SLOPE, p=p, adaptive=adaptive)
  assert found - W @ SLOPE == pytest.approx(expected, rel=1e-5)


def quadratic(w):
  return 0.5 * w @ CURVATURE @ w


@pytest.mark.parametrize("adaptive", [False, True])
def test_of_a_convex_quadratic_on_a_cube_is_at_a_corner(adaptive):
  scale = np.abs(W) if adaptive else 1.0
  corners = itertools.product((-RHO, RHO), repeat=3)
  expected = max(quadratic(W + scale * np.array(c)) for c in corners)
  found = search(quadratic, p=math.inf, adaptive=adaptive)
  assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_of_a_quadratic_on_a_ball_is_the_trust_region_maximum(adaptive):
  """The maximum of g u + u A u / 2 has (l - A) u = g, and ||u|| = rho."""
  scale = np.diag(np.abs(W) if adaptive else np.ones(3))
  a, g = scale @ CURVATURE @ scale, scale @ CURVATURE @ W
  solve = lambda l: np.linalg.solve(l * np.eye(3) - a, g)  # noqa: E731, E741
  top = np.linalg.eigvalsh(a)[-1]
  excess = lambda l: np.linalg.norm(solve(l)) - RHO  # noqa: E731, E741
  u = solve(optimize.brentq(excess, top + 1e-6, top + 1e4))
  expected = quadratic(W) + g @ u + 0.5 * u @ a @ u
  found = search(quadratic, adaptive=adaptive, steps=50)
  assert found == pytest.approx(expected, rel=1e-5)


def test_restarts_leave_a_stationary_point_and_never_find_less():
  bowl = lambda w: w @ w  # noqa: E731
  zero = np.zeros(3, np.float32)
  assert search(bowl, zero) == 0  # the gradient is zero there
  assert search(bowl, zero, restarts=2) == pytest.approx(RHO**2, rel=1e-5)
  waves = lambda w: jnp.sum(jnp.sin(9 * w))  # noqa: E731
  found = [search(waves, rho=1.0, restarts=count) for count in (1, 2, 4, 8)]
  assert found == sorted(found)
  assert found[-1] > found[0]


def losses(variables, batch):
  hidden = jnp.tanh(batch["x"] @ variables["params"]["w"])
  return jnp.sum((hidden - variables["batch_stats"]["mean"]) ** 2, axis=-1)


def problem():
  random = np.random.default_rng(0)
  draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
  return (
    {"params": {"w": draw(4, 5)}, "batch_stats": {"mean": draw(5)}},
    {"x": draw(21, 4)},
  )


def test_groups_have_their_own_maxima_on_any_number_of_devices():
  variables, examples = problem()
  done = []
  alone, together = (
    worst_sharpness_fn(
      losses, examples, 5, jax.devices()[:count], restarts=2, steps=4
    )(variables, RHO, done.append)
    for count in (1, 8)
  )
  np.testing.assert_allclose(alone, together, rtol=1e-5)
  assert done == [1, 1, 1, 1, 4]
  by_hand = [
    highest_loss(
      lambda w, i=i: losses(
        {**variables, "params": w}, {"x": examples["x"][i : i + 5]}
      ).mean(),
      variables["params"],
      RHO,
      jax.random.fold_in(jax.random.key(0), i),
      restarts=2,
      steps=4,
    )
    for i in (0, 5, 10, 15)
  ]
  assert together.perturbed_loss == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_a_loss_that_diverges_is_not_hidden():
  found = search(lambda w: jnp.where(w[0] > 1.01, jnp.nan, w @ SLOPE))
  assert math.isnan(found)


@pytest.mark.parametrize(
  ("search", "message"),
  [
    ({"p": 3}, "p = 3 must be 2 or inf"),
    ({"steps": 0}, "steps = 0"),
    ({"restarts": 0}, "restarts = 0"),
  ],
)
def test_searches_that_do_not_exist(search, message):
  _, examples = problem()
  with pytest.raises(ValueError, match=message):
    worst_sharpness_fn(losses, examples, 5, **search)
