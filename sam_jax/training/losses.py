"""Losses and error rates, one value per example.

Every function takes a whole batch and returns one float32 per example, so that
padding is masked and shards are averaged in one place: `masked_mean`.
"""

import jax
import jax.numpy as jnp


def smooth_labels(targets: jax.Array, smoothing: float) -> jax.Array:
  """Mixes target distributions [N, classes] with the uniform distribution."""
  return (1 - smoothing) * targets + smoothing / targets.shape[-1]


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Cross-entropy of each example.

  Args:
    logits: [N, classes].
    targets: Target distributions [N, classes]; one-hot labels are one case.

  Returns:
    [N] float32, in nats.
  """
  log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.sum(targets * log_probabilities, axis=-1)


def top_k_error(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether the label is not among the k largest logits.

  Ties go against the prediction of a later class, as with `argmax`.

  Args:
    logits: [N, classes].
    labels: [N] integers.
    k: How many guesses are allowed.

  Returns:
    [N] float32 of 0 and 1.
  """
  _, guesses = jax.lax.top_k(logits, k)
  is_hit = jnp.any(guesses == labels[:, None], axis=-1)
  return 1.0 - is_hit.astype(jnp.float32)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of values [N] where mask [N] is 1; 0 if it is nowhere."""
  return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def l2_penalty(params, weight_decay: float, on_norm: bool = True) -> jax.Array:
  """The term weight_decay / 2 * ||w||_2^2 of the paper's objective.

  Args:
    params: Tree of parameters.
    weight_decay: Its coefficient.
    on_norm: False leaves out every tensor of at most one dimension, that is
      normalisation parameters and biases (`--no_weight_decay_on_bn` of
      google-research/sam).

  Returns:
    Scalar float32.
  """
  squares = [
    jnp.sum(jnp.square(w.astype(jnp.float32)))
    for w in jax.tree.leaves(params)
    if on_norm or w.ndim > 1
  ]
  return 0.5 * weight_decay * sum(squares)
