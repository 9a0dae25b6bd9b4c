"""Losses and error rates, one value per example.

Every function takes a whole batch and returns one float32 per example, so that
padding is masked and shards are averaged in one place: `masked_mean`.
"""

import jax
import jax.numpy as jnp

BOOTSTRAPS = {"none": 1.0, "soft": 0.95, "hard": 0.8}  # with Reed et al.'s beta


def smooth_labels(targets: jax.Array, smoothing: float) -> jax.Array:
  """Mixes target distributions [N, classes] with the uniform distribution."""
  return (1 - smoothing) * targets + smoothing / targets.shape[-1]


def bootstrap_targets(
  logits: jax.Array, targets: jax.Array, kind: str, beta: float | None
) -> jax.Array:
  """Mixes labels that may be wrong with what the network makes of them.

  Reed et al. (ICLR 2015 workshop), equations 6 and 7. The soft loss is
  beta * cross-entropy + (1 - beta) * entropy of the prediction, and its
  gradient goes through both; a decision has no gradient.

  Args:
    logits: [N, classes].
    targets: Target distributions [N, classes].
    kind: "none"; "soft" mixes in the predicted distribution; "hard", one-hot,
      the most probable class.
    beta: Weight of the targets; None for the paper's.

  Returns:
    Target distributions [N, classes].
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
