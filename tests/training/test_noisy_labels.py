"""Training on labels that may be wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.config.schema import ConfigError, default_config, validate_config
from sam_jax.training import build, losses, parallel
from sam_jax.training.step import METRICS, train_step
from tests.models.golden_models import quick_state

ON_CORRECT, ON_WRONG = (
  f"error_rate_on_{kind}_labels" for kind in ("correct", "wrong")
)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(6, 4)).astype(np.float32)
TARGETS = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]


@functools.partial(jax.jit, static_argnames=("kind", "beta"))
def loss(logits, kind, beta=None):
  targets = losses.bootstrap_targets(logits, TARGETS, kind, beta)
  return losses.cross_entropy(logits, targets)


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_soft_bootstrapping_is_entropy_regularisation():
  log_p = log_softmax(LOGITS)
  cross_entropy = -(TARGETS * log_p).sum(-1)
  entropy = -(np.exp(log_p) * log_p).sum(-1)
  np.testing.assert_allclose(
    loss(LOGITS, "soft"), 0.95 * cross_entropy + 0.05 * entropy, rtol=1e-5
  )
  # Also its gradient: nothing stops it.
  actual = jax.grad(lambda x: loss(x, "soft", 0.6).sum())(LOGITS)

  @jax.jit
  def expected(x):
    log_p = jax.nn.log_softmax(x)
    mixture = 0.6 * TARGETS * log_p + 0.4 * jnp.exp(log_p) * log_p
    return -mixture.sum()

  np.testing.assert_allclose(actual, jax.grad(expected)(LOGITS), atol=1e-6)


def test_hard_bootstrapping_mixes_in_the_decision():
  log_p = log_softmax(LOGITS)
  decisions = np.eye(4)[LOGITS.argmax(-1)]
  expected = -((0.8 * TARGETS + 0.2 * decisions) * log_p).sum(-1)
  np.testing.assert_allclose(loss(LOGITS, "hard"), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_no_bootstrapping_at_beta_one(kind):
  expected = loss(LOGITS, "none")
  np.testing.assert_allclose(loss(LOGITS, kind, 1.0), expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("kind", "beta", "message"),
  [("firm", None, "bootstrap.kind = 'firm'"), ("soft", 1.5, "bootstrap.beta")],
)
def test_bad_bootstrapping_is_named(kind, beta, message):
  config = default_config()
  config.bootstrap.kind, config.bootstrap.beta = kind, beta
  with pytest.raises(ConfigError, match=message):
    validate_config(config, 1)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_errors_on_correct_and_on_wrong_labels(microbatches):
  """On 8 devices whose shares of wrong labels differ."""
  config = default_config()
  config.dataset.name, config.model.name = "cifar10_n", "tests.tiny:ConvNet"
  config.dataset.image_size = 8
  config.batch_size, config.sam.m = 32, 4 // microbatches
  config.sam.rho, config.optimizer.learning_rate = 0.0, 0.0
  spec = build.dataset_spec(config)
  parts = build.parts(config, spec, 10, 8)
  labels = RANDOM.integers(10, size=32)
  wrong = np.arange(32) % 9 > 5
  images = RANDOM.normal(size=(32, 8, 8, 3)).astype(np.float32)
  batch = {
    "image": images,
    "target": np.eye(10, dtype=np.float32)[labels],
    "clean_label": (labels + wrong) % 10,
  }
  state = quick_state(parts, spec.image_shape)
  # Batch statistics are those of a shard.
  shards = images.reshape(-1, 4 // microbatches, 8, 8, 3)
  apply = jax.jit(
    functools.partial(parts.model.apply, train=True, mutable=["batch_stats"])
  )
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  logits = [apply(variables, shard)[0] for shard in shards]
  errors = np.concatenate(logits).argmax(-1) != labels
  step = parallel.map_train_step(functools.partial(train_step, parts=parts))
  _, metrics = step(parallel.replicate(state), parallel.shard(batch))
  assert set(metrics) == {*METRICS, "diverged_at"}
  assert float(metrics[ON_CORRECT]) == pytest.approx(errors[~wrong].mean())
  assert float(metrics[ON_WRONG]) == pytest.approx(errors[wrong].mean())
  assert float(metrics["error_rate"]) == pytest.approx(errors.mean())
