"""Passes of networks and of blocks, and comparisons of their results."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from sam_jax.models import LayerSettings
from tests.models.golden_models import block_variables, flattened
from tests.models.shapes import parameters_of_zeros

Array = jax.Array


def images(*shape: int, seed: int = 0) -> np.ndarray:
  # Of NumPy: JAX would compile a program for each shape.
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def fast_key(seed: int) -> Array:
  # This generator compiles in a fraction of the default one's time.
  return jax.random.key(seed, impl="rbg")


def forward(
  model: nn.Module, *, train: bool
) -> Callable[[Any, Array, Array], tuple[Array, Any]]:
  """Compile (variables, images, key) -> (logits, updated collections)."""

  def apply(variables, x, key):
    rngs, mutable = {"dropout": key}, ["batch_stats"] if train else []
    with parameters_of_zeros():  # they are given
      return model.apply(variables, x, train=train, rngs=rngs, mutable=mutable)

  return jax.jit(apply)


_cached_forward = functools.cache(forward)


def train_pass(
  model: nn.Module, variables: Any, x: Array, seed: int = 0
) -> tuple[Array, Any]:
  """Return logits and new batch statistics, in train mode."""
  step = _cached_forward(model, train=True)
  logits, updates = step(variables, x, fast_key(seed))
  return logits, updates["batch_stats"]


def eval_pass(model: nn.Module, variables: Any, x: Array) -> Array:
  """Return logits in evaluation mode."""
  return _cached_forward(model, train=False)(variables, x, fast_key(0))[0]


def loss_and_updates(
  model: nn.Module,
  variables: Any,
  x: Array,
  labels: Array,
  true_gradient: bool = False,
) -> tuple[Array, Array, Any, Any]:
  """Return cross-entropy, logits, new statistics and gradient of training."""

  def loss_fn(params):
    with parameters_of_zeros():  # they are given
      logits, updates = model.apply(
        {**variables, "params": params},
        x,
        train=True,
        true_gradient=true_gradient,
        rngs={"dropout": fast_key(0)},
        mutable=["batch_stats"],
      )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return loss.mean(), (logits, updates["batch_stats"])

  step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  (loss, (logits, stats)), grads = step(variables["params"])
  return loss, logits, stats, grads


def block_gradient(
  block: Any, x: Array
) -> tuple[Callable[[Any], tuple[Array, Any]], dict[str, Any]]:
  """Return (params -> a scalar of a block and its gradient), and variables.

  The scalar is a fixed combination of the block's outputs, in train mode.
  """
  variables = block_variables(block.clone(settings=LayerSettings()), x)

  def loss(params):
    y, _ = block.apply(
      {**variables, "params": params},
      x,
      rngs={"dropout": fast_key(1)},
      mutable=["batch_stats"],
    )
    return jnp.sum(jnp.sin(jnp.arange(y.size)) * y.ravel())

  return jax.jit(jax.value_and_grad(loss)), variables


def has_true_gradient(block: nn.Module, x: Array, last_norm: str) -> bool:
  """Compare a block's gradient with a difference, along its last bias.

  Args:
    block: A block that is linear in its last bias, up to random coefficients.
    x: Its input.
    last_norm: Name of the batch norm of that bias.
  """
  gradient, variables = block_gradient(block, x)
  params = variables["params"]

  def moved(step):
    bias = params[last_norm]["bias"] + np.float32(step)
    changed = {**params[last_norm], "bias": bias}
    return gradient({**params, last_norm: changed})[0]

  slope = gradient(params)[1][last_norm]["bias"].sum()
  return bool(np.isclose(slope, (moved(1) - moved(-1)) / 2, rtol=1e-3))


def assert_trees_close(
  actual: Mapping[str, Any],
  expected: Mapping[str, Any],
  rtol: float = 0.0,
  atol: float = 0.0,
) -> None:
  actual, expected = flattened(actual), flattened(expected)
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol, atol, err_msg=name)


def conv(x: Array, params: Mapping[str, Array], stride: int = 1) -> Array:
  """Convolve by lax, for second computations of blocks."""
  return jax.lax.conv_general_dilated(
    x,
    params["kernel"],
    (stride, stride),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def norm(
  x: Array, params: Mapping[str, Array], stats: Mapping[str, Array]
) -> Array:
  """Normalize by running averages, for second computations of blocks."""
  x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
  return x * params["scale"] + params["bias"]
