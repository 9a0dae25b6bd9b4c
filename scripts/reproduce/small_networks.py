"""Train many small networks with `sharpness_aware`, on all devices."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from sam_jax import masks
from sam_jax.sam import sharpness_aware
from sam_jax.training import parallel
from scripts.reproduce.digits import IMAGE_SIZE, NUM_CLASSES, Examples

BATCH = 64

# (params, {"image": [n, 64], "label": [n]}) -> cross-entropies [n]
ExampleLosses = Callable[[Any, Mapping[str, Any]], jax.Array]


class MLP(nn.Module):
  """Two hidden layers, images float32 [n, 64] -> logits [n, classes].

  Without batch normalization the loss is the same in training and evaluation,
  so sharpness has one meaning.
  """

  width: int = 64

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Return the logits."""
    for _ in range(2):
      images = nn.relu(nn.Dense(self.width)(images))
    return nn.Dense(NUM_CLASSES)(images)


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """Fields that change the compiled program of a training.

  Attributes:
    uses_sam: Train with SAM instead of SGD.
    m: Number of examples that share a perturbation.
    p: Norm of the neighborhood.
    adaptive: Use ASAM, scaling every parameter, biases included.
    ascent_steps: Steps of projected ascent.
    second_order: Add the term that SAM drops.
    random_direction: Perturb along normal noise instead of the gradient.
    num_epochs: Length of the training.
    width: Width of the network.
  """

  uses_sam: bool = True
  m: int = 16
  p: float = 2.0
  adaptive: bool = False
  ascent_steps: int = 1
  second_order: bool = False
  random_direction: bool = False
  num_epochs: int = 100
  width: int = 64


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
  """Numbers that are arguments of the compiled program of a training."""

  rho: float = 0.0
  learning_rate: float = 0.1
  weight_decay: float = 5e-4


def example_losses(width: int) -> ExampleLosses:
  """Build the loss of every example of a batch."""
  model = MLP(width)

  def losses(params, batch):
    logits = model.apply({"params": params}, batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["label"]
    )

  return losses


def train(
  algorithm: Algorithm, grid: Sequence[Hyperparameters], examples: Examples
) -> Any:
  """Train a network for every hyperparameter and seed.

  Args:
    algorithm: The algorithm.
    grid: The G hyperparameters.
    examples: The training sets of S seeds. The seed also decides the
      initialization and the order of examples, the same for all algorithms.

  Returns:
    Parameters, leaves [G, S, ...].
  """
  num_seeds, count = examples.labels.shape
  orders = np.stack(
    [_orders(seed, count, algorithm.num_epochs) for seed in range(num_seeds)]
  )
  start = _initial_params(algorithm.width, num_seeds)
  num_devices = jax.local_device_count()
  num_networks = len(grid) * num_seeds
  # All devices need the same number of networks: repeat the first ones.
  padded = -(-num_networks // num_devices) * num_devices
  places, seeds = np.divmod(np.arange(padded) % num_networks, num_seeds)
  numbers = {
    field.name: np.array([getattr(h, field.name) for h in grid], np.float32)
    for field in dataclasses.fields(Hyperparameters)
  }
  numbers = {name: column[places] for name, column in numbers.items()}
  params = _train_fn(algorithm)(
    *parallel.shard((numbers, seeds)), start, orders, examples
  )
  return jax.tree.map(
    lambda x: np.reshape(x, (padded, *x.shape[2:]))[:num_networks].reshape(
      len(grid), num_seeds, *x.shape[2:]
    ),
    params,
  )


def _initial_params(width: int, num_seeds: int) -> Any:
  """Return the initial parameters of every seed, leaves [S, ...].

  Operations run one by one: they compile faster than as a single program.
  """
  images = np.zeros((1, IMAGE_SIZE), np.float32)
  params = [
    MLP(width).init(jax.random.key(seed), images)["params"]
    for seed in range(num_seeds)
  ]
  return jax.tree.map(lambda *x: np.stack(x), *params)


def _orders(seed: int, count: int, num_epochs: int) -> np.ndarray:
  """Return the indices of the examples of every batch, int32 [steps, BATCH]."""
  random = np.random.default_rng((seed, 0x0DE5))
  epochs = [random.permutation(count) for _ in range(num_epochs)]
  return np.stack(epochs).reshape(-1, BATCH).astype(np.int32)


@functools.cache
def _train_fn(algorithm: Algorithm) -> Callable[..., Any]:
  """Compile the training of every device's networks, one after the other.

  A network and its batch fit the cache of a core. Many networks in one
  operation (`jax.vmap`) do not: on CPUs they take twice as long with m = 16,
  and 3.7 times as long with m = 4.
  """

  def train_networks(numbers, seeds, start, orders, examples):
    def train_network(network):
      numbers, seed = network
      of_seed = jax.tree.map(lambda x: x[seed], (start, orders, examples))
      return _train_one(algorithm, numbers, seed, *of_seed)

    return jax.lax.map(train_network, (numbers, seeds))

  return parallel.map_over_devices(
    train_networks, in_axes=(0, 0, None, None, None), out_axes=0
  )


def _train_one(
  algorithm: Algorithm,
  hyperparameters: Mapping[str, Any],
  seed: jax.Array,
  params: Any,
  orders: jax.Array,
  examples: Examples,
) -> Any:
  """Train one network: m-sharpness SAM, momentum, a cosine schedule."""
  losses = example_losses(algorithm.width)
  gradient_fn = jax.grad(lambda w, batch: losses(w, batch).mean())
  sharpness = sharpness_aware(
    (lambda _: hyperparameters["rho"]) if algorithm.uses_sam else 0.0,
    p=algorithm.p,
    adaptive=masks.everything if algorithm.adaptive else False,
    ascent_steps=algorithm.ascent_steps,
    second_order=algorithm.second_order,
  )
  schedule = optax.cosine_decay_schedule(1.0, len(orders))
  optimizer = optax.chain(
    optax.add_decayed_weights(hyperparameters["weight_decay"]),
    optax.trace(decay=0.9, nesterov=True),
    optax.scale_by_schedule(
      lambda t: -hyperparameters["learning_rate"] * schedule(t)
    ),
  )

  def ascent_gradient(params, shard, key):
    if not algorithm.random_direction:
      return gradient_fn(params, shard)
    flat, unravel = ravel_pytree(params)
    return unravel(jax.random.normal(key, flat.shape))

  def shard_gradient(params, shard, key):
    gradient, _ = sharpness.update(
      ascent_gradient(params, shard, key),
      sharpness.init(params),
      params,
      grad_fn=lambda w, _: gradient_fn(w, shard),
    )
    return gradient

  def step(carry, order_and_key):
    params, opt_state = carry
    order, key = order_and_key
    batch = {"image": examples.images[order], "label": examples.labels[order]}
    shards = jax.tree.map(
      lambda x: x.reshape(-1, algorithm.m, *x.shape[1:]), batch
    )
    keys = jax.random.split(key, BATCH // algorithm.m)
    gradients = jax.vmap(shard_gradient, in_axes=(None, 0, 0))(
      params, shards, keys
    )
    mean = jax.tree.map(lambda g: g.mean(axis=0), gradients)
    updates, opt_state = optimizer.update(mean, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), None

  key = jax.random.fold_in(jax.random.key(seed), 1)
  keys = jax.random.split(key, len(orders))
  start = params, optimizer.init(params)
  (params, _), _ = jax.lax.scan(step, start, (orders, keys))
  return params


@functools.partial(jax.jit, static_argnums=0)
def _errors(width, params, examples):
  def error(params, examples):
    logits: Any = MLP(width).apply({"params": params}, examples.images)
    return jnp.mean(jnp.argmax(logits, axis=-1) != examples.labels)

  return jax.vmap(jax.vmap(error), in_axes=(0, None))(params, examples)


def error_rates(width: int, params: Any, examples: Examples) -> np.ndarray:
  """Return the error rates [G, S] of networks on examples of their seeds.

  Args:
    width: Width of the networks.
    params: Parameters, leaves [G, S, ...].
    examples: The examples of S seeds.
  """
  return np.asarray(_errors(width, params, examples), np.float64)
