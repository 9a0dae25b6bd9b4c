"""Average-case sharpness and Hutchinson's trace against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.analysis import hessian, monte_carlo
from sam_jax.analysis.average_case import average_sharpness

SIGMA = 0.1
W = np.array([1.0, -2.0, 0.5, 0.0], np.float32)


def symmetric(size=4):
  random = np.random.default_rng(0)
  matrix = random.normal(size=(size, size)).astype(np.float32)
  return matrix @ matrix.T


def quadratic(params):
  w = jnp.concatenate([params["a"], params["b"]])
  return 0.5 * w @ symmetric() @ w + jnp.sum(w)


def split(w):
  return {"a": w[:1], "b": w[1:]}


@pytest.mark.parametrize("adaptive", [False, True])
def test_of_a_quadratic_is_half_the_trace(adaptive):
  """E L(w + eps) - L(w) = sigma^2 / 2 * sum H_ii c_i^2; the slope has no part.

  The standard error is that of the quadratic form: the square root of
  sigma^4 / 2 * ||c H c||_F^2 / draws.
  """
  scale = np.diag(np.abs(W)) if adaptive else np.eye(4)
  scaled = scale @ symmetric() @ scale
  expected = SIGMA**2 / 2 * np.trace(scaled)
  spread = np.sqrt(SIGMA**4 / 2 * np.sum(scaled**2) / 400)
  found = average_sharpness(
    quadratic, split(W), SIGMA, draws=400, adaptive=adaptive
  )
  assert found.standard_error == pytest.approx(spread, rel=0.25)
  assert abs(found.value - expected) < 3 * spread
  assert spread < expected / 10  # the check above says something


def test_a_slope_alone_is_not_sharp():
  found = average_sharpness(lambda w: jnp.sum(3 * w), W, SIGMA, draws=3)
  assert found.value == pytest.approx(0, abs=1e-6)
  assert found.standard_error == pytest.approx(0, abs=1e-6)


def test_draws_depend_on_the_seed_and_report_their_progress():
  done = []
  first, again, other = (
    average_sharpness(
      quadratic, split(W), SIGMA, draws=2, seed=seed, on_draw=done.append
    )
    for seed in (0, 0, 1)
  )
  assert first == again
  assert first.value != other.value
  assert done == [1] * 6


def test_trace_of_a_known_matrix():
  matrix = symmetric()

  def product(v):
    return split(matrix @ np.concatenate([v["a"], v["b"]]))

  found = hessian.trace(product, split(W), draws=200)
  off_diagonal = matrix - np.diag(np.diag(matrix))
  spread = np.sqrt(2 * np.sum(off_diagonal**2) / 200)
  assert found.standard_error == pytest.approx(spread, rel=0.2)
  assert abs(found.value - np.trace(matrix)) < 3 * spread


def test_trace_of_a_diagonal_matrix_takes_one_draw():
  diagonal = np.array([1.0, 2.0, -3.0, 5.0], np.float32)
  found = hessian.trace(lambda v: diagonal * v, W, draws=1)
  assert found == (5.0, None)


def test_means_need_a_draw():
  with pytest.raises(ValueError, match="draws = 0 must be at least 1"):
    monte_carlo.mean_of_draws(lambda number: 0.0, 0)
