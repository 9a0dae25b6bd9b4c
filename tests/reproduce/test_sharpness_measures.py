"""Measures of networks side by side, against those of the analyses."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from sam_jax.analysis import sharpness
from scripts.reproduce import digits, sharpness_measures, small_networks


def test_measures_are_those_of_the_analyses():
  train = digits.draw_splits(2, noise_rate=0.5).train
  random = np.random.default_rng(0)
  shapes = small_networks.MLP(3).init(jax.random.key(0), train.images[0, :1])
  params = jax.tree.map(
    lambda x: 0.3 * random.standard_normal((2, 2, *x.shape), np.float32),
    shapes["params"],
  )
  one = jax.tree.map(lambda x: x[1, 0], params)
  losses = small_networks.example_losses(3)
  batch = {"image": train.images[0], "label": train.labels[0]}
  found = sharpness_measures.m_sharpness(3, params, train, 128, rho=0.1)
  expected = sharpness.m_sharpness(
    losses, one, batch, 128, 0.1, devices=jax.devices()[:1]
  )
  assert found[1, 0] == pytest.approx(expected.value, rel=1e-3)

  flat, unravel = ravel_pytree(one)
  dense = jax.jit(jax.hessian(lambda w: losses(unravel(w), batch).mean()))(flat)
  top = sharpness_measures.top_eigenvalues(3, one, batch, seed=0)
  assert top == pytest.approx(np.linalg.eigvalsh(dense)[::-1][:5], rel=1e-2)
