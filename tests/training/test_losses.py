"""Losses and error rates against the official release, optax and a sort."""

import numpy as np
import optax
import pytest

from sam_jax.training import losses


def masked_mean(values, mask):
  return np.sum(values * mask) / max(np.sum(mask), 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["nomask", "mask", "zeromask"])
def test_cross_entropy_equals_the_official_release(golden, smoothing, kind):
  recorded = golden("losses.npz")
  logits, labels = recorded["logits"], recorded["labels"]
  masks = {
    "nomask": np.ones(len(logits)),
    "mask": recorded["mask"],
    "zeromask": np.zeros(len(logits)),
  }
  targets = labels if labels.ndim == 2 else np.eye(10)[labels]
  loss = masked_mean(
    losses.cross_entropy(logits, losses.smooth_labels(targets, smoothing)),
    masks[kind],
  )
  expected = recorded[f"cross_entropy/ls{smoothing}/{kind}"]
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  hard = np.argmax(targets, axis=-1)
  error = masked_mean(losses.top_k_error(logits, hard, 1), masks[kind])
  np.testing.assert_allclose(error, recorded[f"error_rate/{kind}"], rtol=1e-6)


def test_sigmoid_cross_entropy_is_that_of_each_class():
  random = np.random.default_rng(0)
  logits = 3 * random.normal(size=(20, 7))
  targets = losses.smooth_labels(np.eye(7)[random.integers(7, size=20)], 0.1)
  p = 1 / (1 + np.exp(-logits))
  expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(axis=1)
  found = losses.sigmoid_cross_entropy(np.float32(logits), targets)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  of_optax = optax.sigmoid_binary_cross_entropy(np.float32(logits), targets)
  np.testing.assert_allclose(found, of_optax.sum(axis=1), rtol=1e-6)
  far = losses.sigmoid_cross_entropy(np.float32([[300, -300]]), np.eye(2)[:1])
  assert far == 0


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_error_equals_a_sort(k):
  random = np.random.default_rng(0)
  logits = random.normal(size=(200, 12)).astype(np.float32)
  labels = random.integers(12, size=200)
  best = np.argsort(-logits, axis=-1)[:, :k]
  expected = [label not in row for label, row in zip(labels, best, strict=True)]
  np.testing.assert_array_equal(
    losses.top_k_error(logits, labels, k), np.float32(expected)
  )


def test_l2_penalty_can_spare_vectors():
  params = {"kernel": np.full((2, 3), 2.0), "bias": np.full((3,), 1.0)}
  assert losses.l2_penalty(params, 0.1) == pytest.approx(0.05 * (24 + 3))
  assert losses.l2_penalty(
    params, 0.1, {"kernel": True, "bias": False}
  ) == pytest.approx(0.05 * 24)
