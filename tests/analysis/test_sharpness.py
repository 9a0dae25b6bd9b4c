"""Sharpness against closed forms, a plain loop, and the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.analysis.objective import Objective
from sam_jax.analysis.sharpness import (
  group_sharpness,
  m_sharpness,
  m_sharpness_fn,
  sharpness,
  sharpness_fn,
)

CURVATURE = np.diag([1.0, 2.0, 5.0]).astype(np.float32)
W = np.array([1.0, -1.0, 0.5], np.float32)
RHO = 0.1


def quadratic(w):
  return 0.5 * w @ CURVATURE @ w


def network_losses(params, batch):
  hidden = jnp.tanh(batch["x"] @ params["w"])
  return jnp.sum((hidden @ params["v"] - batch["y"]) ** 2, axis=-1)


def problem(count=21):
  random = np.random.default_rng(0)
  draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
  params = {"w": draw(4, 5), "v": draw(5, 2)}
  return params, {"x": draw(count, 4), "y": draw(count, 2)}


def mean_loss(params, examples):
  return jnp.mean(network_losses(params, examples))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("p", [1.0, 2.0, np.inf])
def test_quadratic_equals_its_closed_form(p, adaptive):
  """ASAM's ball is SAM's in the coordinates w / (|w| + eta)."""
  scale = np.abs(W) + 0.01 if adaptive else np.ones_like(W)
  g = scale * (CURVATURE @ W)
  directions = {
    1.0: np.sign(g) * (np.abs(g) == np.abs(g).max()),
    2.0: g / np.linalg.norm(g),
    np.inf: np.sign(g),
  }
  expected = quadratic(W + RHO * scale * directions[p]) - quadratic(W)
  result = sharpness(
    jax.value_and_grad(quadratic), W, RHO, p=p, adaptive=adaptive, eta=0.01
  )
  assert result.loss == pytest.approx(quadratic(W), rel=1e-6)
  assert result.value == pytest.approx(expected, rel=1e-4)


def test_many_steps_find_the_largest_curvature_at_a_minimum():
  near = 1e-6 * W
  found = sharpness(jax.value_and_grad(quadratic), near, RHO, ascent_steps=40)
  assert found.value == pytest.approx(RHO**2 / 2 * 5, rel=1e-3)


def test_more_steps_never_report_less():
  """The steps jump over the sine's peak, from 1 to 3, to 1, and to 3."""
  waves = lambda w, batch: jnp.sin(w) * batch["x"]  # noqa: E731
  wave = lambda w: waves(w, {"x": np.ones(1)}).mean()  # noqa: E731
  w, batch = np.ones(1, np.float32), {"x": np.ones(4, np.float32)}
  found = sharpness(jax.value_and_grad(wave), w, 2.0, ascent_steps=3)
  assert found.perturbed_loss == pytest.approx(np.sin(1), rel=1e-5)
  of_group = group_sharpness(waves, w, 2.0, batch, ascent_steps=3)
  np.testing.assert_allclose(of_group, found, rtol=1e-5)


def test_no_radius_no_sharpness():
  result = sharpness(jax.value_and_grad(quadratic), W, 0.0)
  assert result.value == 0


@pytest.mark.parametrize("count", [1, 8])
def test_objective_is_the_mean_on_any_number_of_devices(count):
  params, examples = problem()
  objective = Objective(
    network_losses, examples, batch_size=8, devices=jax.devices()[:count]
  )
  value, gradient = objective.value_and_grad(params)
  expected, expected_gradient = jax.device_get(
    jax.value_and_grad(mean_loss)(params, examples)
  )
  assert objective.value(params) == pytest.approx(float(expected), rel=1e-6)
  assert value == pytest.approx(float(expected), rel=1e-6)
  for name in params:
    np.testing.assert_allclose(
      gradient[name], expected_gradient[name], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("batch_size", [8, 16])  # 3 and 2 passes
def test_hessian_product_equals_the_dense_hessian(batch_size):
  params, examples = problem()
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  vector = np.random.default_rng(1).normal(size=flat.shape).astype(np.float32)
  dense = jax.hessian(lambda w: mean_loss(unravel(w), examples))(flat)
  objective = Objective(network_losses, examples, batch_size)
  product = objective.hessian_product(params, unravel(vector))
  np.testing.assert_allclose(
    jax.flatten_util.ravel_pytree(product)[0],
    dense @ vector,
    rtol=1e-3,
    atol=1e-3,
  )


@pytest.mark.parametrize("m", [1, 5, 21])
def test_m_sharpness_is_the_mean_over_groups(m):
  params, examples = problem()
  groups = [
    {name: value[i * m : (i + 1) * m] for name, value in examples.items()}
    for i in range(21 // m)
  ]
  each = [
    sharpness(
      lambda w, g=group: jax.value_and_grad(mean_loss)(w, g), params, RHO
    ).value
    for group in groups
  ]
  result = m_sharpness(network_losses, params, examples, m, RHO)
  assert result.value == pytest.approx(np.mean(each), rel=1e-4)


def test_m_sharpness_does_not_depend_on_the_number_of_devices():
  params, examples = problem()
  alone, together = (
    m_sharpness(
      network_losses, params, examples, 5, RHO, devices=jax.devices()[:count]
    )
    for count in (1, 8)
  )
  np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_sharpness_does_not_depend_on_the_number_of_devices():
  params, examples = problem()
  objective = Objective(network_losses, examples, batch_size=8)
  found = sharpness(objective.value_and_grad, params, RHO, ascent_steps=2)
  expected = sharpness(
    lambda w: jax.value_and_grad(mean_loss)(w, examples),
    params,
    RHO,
    ascent_steps=2,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_m_sharpness_of_no_radius_is_zero_and_below_it_is_refused():
  params, examples = problem()
  measure = m_sharpness_fn(network_losses, examples, 7)
  assert measure(params, 0.0).value == 0
  with pytest.raises(ValueError, match="rho must be"):
    measure(params, -1.0)


@pytest.mark.parametrize(
  ("rho", "kwargs", "message"),
  [
    (-1.0, {}, "rho must be"),
    (RHO, {"p": 0.5}, "p must be"),
    (RHO, {"ascent_steps": 0}, "ascent_steps must be"),
  ],
)
def test_wrong_arguments_are_named_before_any_gradient(rho, kwargs, message):
  params, examples = problem()
  with pytest.raises(ValueError, match=message):
    sharpness(pytest.fail, params, rho, **kwargs)
  with pytest.raises(ValueError, match=message):
    group_sharpness(pytest.fail, params, rho, examples, **kwargs)


@pytest.mark.parametrize("kwargs", [{"p": 0.5}, {"ascent_steps": 0}])
def test_arguments_of_every_call_are_checked_once_before(kwargs):
  (name,) = kwargs
  with pytest.raises(ValueError, match=f"{name} must be"):
    sharpness_fn(pytest.fail, **kwargs)


def test_smaller_groups_are_sharper():
  params, examples = problem()
  values = [
    m_sharpness(network_losses, params, examples, m, RHO).value
    for m in (1, 7, 21)
  ]
  assert values[0] > values[1] > values[2] > 0


@pytest.mark.parametrize("m", [0, 22])
def test_groups_that_do_not_exist(m):
  params, examples = problem()
  with pytest.raises(ValueError, match=f"m = {m} makes no group"):
    m_sharpness(network_losses, params, examples, m, RHO)


def test_batches_must_divide_by_the_devices():
  _, examples = problem()
  with pytest.raises(ValueError, match="batch_size = 9 does not divide by 8"):
    Objective(network_losses, examples, batch_size=9)
