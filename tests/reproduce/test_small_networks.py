"""Trainings side by side, against trainings one after the other."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from scripts.reproduce import digits, small_networks
from scripts.reproduce.small_networks import Algorithm, Hyperparameters

GRID = [
  Hyperparameters(rho=0.1, weight_decay=0.01),
  Hyperparameters(rho=0.5, learning_rate=0.05),
]


@pytest.fixture(scope="module")
def data():
  return digits.draw_splits(2, noise_rate=0.5)


def test_networks_side_by_side_are_those_of_a_plain_loop(data):
  """Against `optax.contrib.sam`, one network and one step after the other."""
  algorithm = Algorithm(m=64, num_epochs=1, width=8)
  params = small_networks.train(algorithm, GRID, data.train)
  losses = small_networks.example_losses(8)

  def optimizer(rho, learning_rate, weight_decay):
    rate = optax.cosine_decay_schedule(learning_rate, 8)
    base = optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.sgd(rate, momentum=0.9, nesterov=True),
    )
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    return optax.contrib.sam(base, ascent, opaque_mode=True)

  @jax.jit
  def step(numbers, w, state, batch):
    gradient_fn = jax.grad(lambda w: losses(w, batch).mean())
    updates, state = optimizer(*numbers).update(
      gradient_fn(w), state, w, grad_fn=lambda w, _: gradient_fn(w)
    )
    return optax.apply_updates(w, updates), state

  for g, seed in ((0, 1), (1, 0)):
    numbers = dataclasses.astuple(GRID[g])
    images, labels = (x[seed] for x in data.train)
    orders = np.random.default_rng((seed, 0x0DE5)).permutation(512)
    w = small_networks.MLP(8).init(jax.random.key(seed), images[:1])["params"]
    state = optimizer(*numbers).init(w)
    for order in orders.reshape(8, 64):
      batch = {"image": images[order], "label": labels[order]}
      w, state = step(numbers, w, state, batch)
    found = jax.tree.map(lambda x, g=g, s=seed: x[g, s], params)
    flat, expected = ravel_pytree(found)[0], ravel_pytree(w)[0]
    np.testing.assert_allclose(flat, expected, rtol=1e-3, atol=1e-5)


def test_random_perturbations_change_less_than_those_along_the_gradient(data):
  grid = [Hyperparameters(rho=1e-6), Hyperparameters(rho=0.5)]

  def weights(is_random):
    algorithm = Algorithm(
      m=64, num_epochs=1, width=8, random_direction=is_random
    )
    params = small_networks.train(algorithm, grid, data.train)
    return [
      ravel_pytree(jax.tree.map(lambda x, g=g: x[g, 0], params))[0]
      for g in range(2)
    ]

  (sgd, sam), (same, noisy) = map(weights, (False, True))
  np.testing.assert_allclose(same, sgd, rtol=1e-3, atol=1e-4)
  norm = np.linalg.norm
  assert 0.01 * norm(sam - sgd) < norm(noisy - sgd) < 0.5 * norm(sam - sgd)
