"""Trains many small networks at once, with the transformation of `sam_jax`."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from sam_jax.sam import sharpness_aware
from scripts.reproduce.splits import NUM_CLASSES, Examples

BATCH = 64


class MLP(nn.Module):
  """Two hidden layers, images float32 [n, 64] -> logits [n, classes].

  Fully connected and without batch normalisation: its loss is that of training
  and evaluation alike, so sharpness has one meaning.
  """

  width: int = 64

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Returns the logits."""
    for _ in range(2):
      images = nn.relu(nn.Dense(self.width)(images))
    return nn.Dense(NUM_CLASSES)(images)


@dataclasses.dataclass(frozen=True)
class Method:
  """What has to be compiled anew; rho and the rest of `Setting` has not.

  Attributes:
    uses_sam: Or plain SGD.
    m: Examples that share a perturbation.
    p: Norm of the neighbourhood.
    adaptive: ASAM.
    ascent_steps: Steps of projected ascent.
    second_order: With the term that SAM drops.
    random_direction: Normal noise instead of the gradient perturbs, as far.
    num_epochs: Length of the training.
    width: Of the network.
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
class Setting:
  """The numbers of a training: SAM's radius, and SGD's."""

  rho: float = 0.0
  learning_rate: float = 0.1
  weight_decay: float = 5e-4


def example_losses(width: int) -> Any:
  """(params, {"image" [n, 64], "label" [n]}) -> cross-entropies [n]."""
  model = MLP(width)

  def losses(params, batch):
    logits = model.apply({"params": params}, batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["label"]
    )

  return losses


def train(
  method: Method, settings: Sequence[Setting], examples: Examples
) -> Any:
  """Trains a network for every setting and seed, side by side.

  Args:
    method: What to do.
    settings: The G settings.
    examples: The training sets of S seeds; seeds also decide initialisation and
      the order of examples, alike for all methods and settings.

  Returns:
    Parameters, leaves [G, S, ...].
  """
  columns = {
    field.name: np.array([getattr(s, field.name) for s in settings], np.float32)
    for field in dataclasses.fields(Setting)
  }
  num_seeds, count = examples.labels.shape
  orders = np.stack(
    [_orders(seed, count, method.num_epochs) for seed in range(num_seeds)]
  )
  seeds = np.arange(num_seeds)
  return _train_fn(method)(columns, seeds, orders, examples)


def _orders(seed: int, count: int, num_epochs: int) -> np.ndarray:
  """Which examples make up every batch, int32 [steps, BATCH]."""
  random = np.random.default_rng((seed, 0x0DE5))
  epochs = [random.permutation(count) for _ in range(num_epochs)]
  return np.stack(epochs).reshape(-1, BATCH).astype(np.int32)


@functools.cache
def _train_fn(method: Method):
  """Compiles once a method, for settings [G] and seeds [S]."""
  over_seeds = jax.vmap(
    functools.partial(_train_one, method), in_axes=(None, 0, 0, 0)
  )
  return jax.jit(jax.vmap(over_seeds, in_axes=(0, None, None, None)))


def _train_one(
  method: Method, setting: Mapping[str, Any], seed, orders, examples: Examples
):
  """Trains one network: m-sharpness SAM, momentum, a cosine schedule."""
  losses = example_losses(method.width)
  gradient_fn = jax.grad(lambda w, batch: losses(w, batch).mean())
  sharpness = sharpness_aware(
    (lambda _: setting["rho"]) if method.uses_sam else 0.0,
    p=method.p,
    adaptive=method.adaptive,
    ascent_steps=method.ascent_steps,
    second_order=method.second_order,
  )
  schedule = optax.cosine_decay_schedule(1.0, len(orders))
  optimizer = optax.chain(
    optax.add_decayed_weights(setting["weight_decay"]),
    optax.trace(decay=0.9, nesterov=True),
    optax.scale_by_schedule(lambda t: -setting["learning_rate"] * schedule(t)),
  )

  def ascent_gradient(params, shard, key):
    if not method.random_direction:
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
      lambda x: x.reshape(-1, method.m, *x.shape[1:]), batch
    )
    keys = jax.random.split(key, BATCH // method.m)
    gradients = jax.vmap(shard_gradient, in_axes=(None, 0, 0))(
      params, shards, keys
    )
    mean = jax.tree.map(lambda g: g.mean(axis=0), gradients)
    updates, opt_state = optimizer.update(mean, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), None

  key = jax.random.key(seed)
  params = MLP(method.width).init(key, examples.images[:1])["params"]
  start = params, optimizer.init(params)
  keys = jax.random.split(jax.random.fold_in(key, 1), len(orders))
  (params, _), _ = jax.lax.scan(step, start, (orders, keys))
  return params


@functools.partial(jax.jit, static_argnums=0)
def _errors(width, params, examples):
  def error(params, examples):
    logits = MLP(width).apply({"params": params}, examples.images)
    return jnp.mean(jnp.argmax(logits, axis=-1) != examples.labels)

  return jax.vmap(jax.vmap(error), in_axes=(0, None))(params, examples)


def error_rates(width: int, params: Any, examples: Examples) -> np.ndarray:
  """Error rates [G, S] of networks on the examples of their seeds."""
  return np.asarray(_errors(width, params, examples), np.float64)
