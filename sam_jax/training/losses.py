"""Losses and error rates, one value per example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Kinds of bootstrapping, with the beta of Reed et al. (2015).
BOOTSTRAPS = {"none": 1.0, "soft": 0.95, "hard": 0.8}


def smooth_labels(targets: jax.Array, smoothing: float) -> jax.Array:
  """Mix target distributions [N, classes] with the uniform distribution."""
  return (1 - smoothing) * targets + smoothing / targets.shape[-1]


def bootstrap_targets(
  logits: jax.Array, targets: jax.Array, kind: str, beta: float | None
) -> jax.Array:
  """Mix labels that may be wrong with the predictions of the network.

  The soft loss is beta * cross-entropy + (1 - beta) * entropy of the
  prediction, and its gradient flows through both; a decision has no gradient.

  Args:
    logits: [N, classes].
    targets: Target distributions [N, classes].
    kind: "none"; "soft" mixes in the predicted distribution; "hard" mixes in
      the most probable class, one-hot.
    beta: Weight of the targets; None for that of the paper.

  Returns:
    Target distributions [N, classes].

  Reference: Reed et al. (ICLR 2015 workshop), equations 6 and 7.
  """
  if kind == "none":
    return targets
  beta = BOOTSTRAPS[kind] if beta is None else beta
  predictions = jax.nn.softmax(logits.astype(jnp.float32))
  if kind == "hard":
    classes = jnp.argmax(logits, axis=-1)
    predictions = jax.nn.one_hot(classes, logits.shape[-1])
  return beta * targets + (1 - beta) * predictions


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Return the cross-entropy of each example.

  Args:
    logits: [N, classes].
    targets: Target distributions [N, classes], one-hot labels for example.

  Returns:
    float32 [N], in nats.
  """
  log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.sum(targets * log_probabilities, axis=-1)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Return the sum of the cross-entropies of each class, one against the rest.

  Args:
    logits: [N, classes].
    targets: Target distributions [N, classes], one-hot labels for example.

  Returns:
    float32 [N], in nats.
  """
  logits = logits.astype(jnp.float32)
  return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


# (logits, targets) -> the loss of each example, by `config.loss`.
Loss = Callable[[jax.Array, jax.Array], jax.Array]
LOSSES: dict[str, Loss] = {
  "softmax": cross_entropy,
  "sigmoid": sigmoid_cross_entropy,
}


def top_k_error(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Return 1 for each example whose label is not among the k largest logits.

  Ties go against the prediction of a later class, as with `argmax`.

  Args:
    logits: [N, classes].
    labels: int [N].
    k: Number of guesses allowed.

  Returns:
    float32 [N] of 0 and 1.
  """
  _, guesses = jax.lax.top_k(logits, k)
  is_hit = jnp.any(guesses == labels[:, None], axis=-1)
  return 1.0 - is_hit.astype(jnp.float32)


def l2_penalty(params: Any, weight_decay: float, mask: Any = None) -> jax.Array:
  """Return weight_decay / 2 * ||w||_2^2, the regularization of the paper.

  Args:
    params: Tree of parameters.
    weight_decay: Coefficient of the term.
    mask: Tree of bools like `params`, the leaves that count; None for all.

  Returns:
    float32 ().
  """
  mask = jax.tree.map(lambda _: True, params) if mask is None else mask
  squares = jax.tree.map(
    lambda w, m: jnp.sum(jnp.square(w.astype(jnp.float32))) if m else 0.0,
    params,
    mask,
  )
  total = sum(jax.tree.leaves(squares), jnp.float32(0))
  return 0.5 * weight_decay * total
