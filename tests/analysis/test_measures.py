"""Measures by name, each against an independent computation."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from sam_jax.analysis import features
from sam_jax.analysis.measure_names import DEFAULT, MEASURES, parse_measure
from sam_jax.analysis.measured_network import MeasuredNetwork
from sam_jax.models import LayerSettings
from sam_jax.training.losses import sigmoid_cross_entropy

CLASSES = 3


class Perceptron(nn.Module):
  """Two layers, with batch statistics: running averages in evaluation mode."""

  settings: LayerSettings = dataclasses.field(default_factory=LayerSettings)

  @nn.compact
  def __call__(self, x, *, train):
    x = x.reshape(len(x), -1)
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
    return nn.Dense(CLASSES)(nn.tanh(x))


def preprocess(images):
  return images / 64.0 - 2.0


def problem(count=21):
  random = np.random.default_rng(0)
  examples = {
    "image": random.integers(256, size=(count, 2, 2, 1)).astype(np.uint8),
    "label": random.integers(CLASSES, size=count).astype(np.int32),
  }
  model = Perceptron()
  images = jnp.zeros((1, 2, 2, 1))
  init = jax.jit(functools.partial(model.init, train=False))
  variables = jax.device_get(init(jax.random.key(0), images))
  statistics = {"mean": np.full(5, 0.3, np.float32), "var": np.ones(5)}
  variables["batch_stats"] = {
    "BatchNorm_0": jax.tree.map(np.float32, statistics)
  }
  return model, variables, examples


@functools.cache  # of the compiled programs
def network():
  model, variables, examples = problem()
  return MeasuredNetwork(model, preprocess, examples, 16), variables


def flat_losses(normalize=False):
  """Return the parameters, and their losses, by plain JAX."""
  model, variables, examples = problem()
  flat, unravel = ravel_pytree(variables["params"])

  def losses(w):
    logits = model.apply(
      {**variables, "params": unravel(w)},
      preprocess(examples["image"]),
      train=False,
    )
    if normalize:
      logits -= logits.mean(axis=1, keepdims=True)
      logits /= jnp.linalg.norm(logits, axis=1, keepdims=True)
    chosen = jnp.take_along_axis(logits, examples["label"][:, None], axis=1)
    return jax.scipy.special.logsumexp(logits, axis=1) - chosen[:, 0]

  return flat, losses


@functools.cache
def dense_hessian(normalize=False):
  flat, losses = flat_losses(normalize)
  return np.asarray(jax.jit(jax.hessian(lambda w: losses(w).mean()))(flat))


@functools.cache
def gradients_of_examples(normalize=False):
  """Return a row for each example."""
  flat, losses = flat_losses(normalize)
  return np.asarray(jax.jit(jax.jacobian(losses))(flat), np.float64)


def measured(text, seed=0):
  return parse_measure(text)(*network(), seed)


def test_a_network_is_measured_by_its_own_loss():
  model, variables, examples = problem()
  own = MeasuredNetwork(model, preprocess, examples, 16, sigmoid_cross_entropy)
  evaluate = jax.jit(functools.partial(model.apply, train=False))
  logits = np.asarray(evaluate(variables, preprocess(examples["image"])))
  targets = np.eye(CLASSES)[examples["label"]]
  losses = np.logaddexp(0, logits) - targets * logits
  assert own.objective().value(variables) == pytest.approx(
    losses.sum(axis=1).mean(), rel=1e-5
  )


def test_noise_is_the_trace_of_the_covariance_of_gradients():
  gradients = gradients_of_examples()
  covariance = np.cov(gradients, rowvar=False)
  found = measured("noise")
  assert found.value == pytest.approx(np.trace(covariance), rel=1e-4)
  mean = gradients.mean(axis=0)
  expected = np.trace(covariance) / (mean @ mean - np.trace(covariance) / 21)
  found = measured("noise:relative").value
  assert found == pytest.approx(float(expected), rel=1e-3)


def test_trace_and_eigenvalue_are_those_of_the_dense_hessian():
  dense = dense_hessian()
  found = measured("trace:draws=40")
  assert abs(found.value - np.trace(dense)) < 3 * found.standard_error
  assert found.standard_error < 0.3 * np.trace(dense)
  top = np.linalg.eigvalsh(dense)[-1]
  assert measured("eigenvalue").value == pytest.approx(top, rel=1e-3)


@pytest.mark.parametrize("options", ["", ",adaptive", ",normalize"])
def test_average_is_half_the_trace_for_little_noise(options):
  """It reaches the network: its statistics stay, its logits are normalized."""
  flat, _ = flat_losses()
  dense = dense_hessian(normalize="normalize" in options)
  scale = np.abs(flat) if "adaptive" in options else np.ones_like(flat)
  terms = 0.03**2 / 2 * np.diag(dense) * scale**2
  found = measured(f"average:sigma=0.03,draws=60{options}")
  assert abs(found.value - np.sum(terms)) < 3 * found.standard_error + 1e-6
  assert found.standard_error < 0.3 * np.sum(np.abs(terms))


@pytest.mark.parametrize("options", ["", ",adaptive", ",normalize"])
def test_worst_is_the_dual_norm_for_a_small_radius(options):
  flat, _ = flat_losses()
  gradients = gradients_of_examples(normalize="normalize" in options)
  gradients = gradients.reshape(3, 7, -1).mean(axis=1)
  scale = np.abs(flat) if "adaptive" in options else 1.0
  rho = 1e-3
  for p, norms in (
    ("2", np.linalg.norm(scale * gradients, axis=1)),
    ("inf", np.abs(scale * gradients).sum(axis=1)),
  ):
    found = measured(f"worst:m=7,rho={rho},p={p}{options}")
    assert found.value == pytest.approx(rho * norms.mean(), rel=0.02)
  if not options:  # SAM's own step is the same, to first order
    one_step = measured(f"one_step:m=7,rho={rho}").value
    expected = rho * np.linalg.norm(gradients, axis=1).mean()
    assert one_step == pytest.approx(expected, rel=0.02)


def test_rank_is_that_of_the_hidden_layer():
  _, variables, examples = problem()
  params, statistics = variables["params"], variables["batch_stats"]
  x = preprocess(examples["image"].reshape(21, 4).astype(np.float64))
  x = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
  x = (x - statistics["BatchNorm_0"]["mean"]) / np.sqrt(1 + 1e-5)
  hidden = np.tanh(x)
  net, _ = network()
  np.testing.assert_allclose(net.features(variables), hidden, atol=1e-4)
  for share in (0.3, 0.99):
    values = np.linalg.eigvalsh(np.cov(hidden, rowvar=False))[::-1]
    expected = sum(np.cumsum(values) < share * values.sum()) + 1
    assert measured(f"rank:variance={share}").value == expected


def test_rank_of_known_features():
  random = np.random.default_rng(0)
  two = random.normal(size=(50, 2)) @ random.normal(size=(2, 7))
  assert features.feature_rank(two + 5, variance=1 - 1e-9) == 2
  assert features.feature_rank(np.ones((4, 3))) == 0


def test_rank_needs_a_dense_layer_at_the_end():
  class Odd(Perceptron):
    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dense(7)(x.reshape(len(x), -1))[:, :CLASSES]

  _, _, examples = problem()
  net = MeasuredNetwork(Odd(), preprocess, examples, 8)
  variables = Odd().init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), train=True)
  with pytest.raises(ValueError, match="a network whose last layer is"):
    net.features({"batch_stats": {}, **variables})


def test_random_measures_depend_on_the_seed_alone():
  # In a small ball all searches of `worst` arrive at the same point.
  worst = "worst:m=7,rho=3,restarts=2"
  for text in ("average:draws=2", "trace:draws=2", worst):
    assert measured(text) == measured(text)
    assert measured(text) != measured(text, seed=1), text


def test_every_measure_reports_its_work():
  net, variables = network()
  for text in ("average:draws=3", "trace:draws=2", "one_step:m=5", "worst:m=5"):
    measure, done = parse_measure(text), []
    measure(net, variables, 0, done.append)
    assert sum(done) == measure.work(21), text


def test_defaults_name_every_measure():
  assert {parse_measure(text).name for text in DEFAULT} == MEASURES.keys()


def test_options_are_parsed():
  measure = parse_measure("worst:p=inf,m=3,adaptive,normalize=False")
  assert measure.name == "worst"
  assert measure.options == {
    "rho": 0.1,
    "m": 3,
    "p": math.inf,
    "adaptive": True,
    "normalize": False,
    "steps": 20,
    "restarts": 1,
  }


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("averge", "'averge' is no measure. .* Did you mean 'average'?"),
    ("average:sgma=1", "no option 'sgma'. .* Did you mean 'sigma'?"),
    ("average:sigma=a", "sigma must be a number"),
    ("average:sigma=0", "sigma must be above 0"),
    ("average:sigma=inf", "sigma must be above 0, and finite"),
    ("average:draws=1.5", "draws must be an integer"),
    ("average:adaptive=2", "adaptive must be true or false"),
    ("worst:p=1", "p must be 2 or inf"),
    ("rank:variance=2", "variance must be at most 1"),
  ],
)
def test_mistakes(text, message):
  with pytest.raises(ValueError, match=message):
    parse_measure(text)


@pytest.mark.parametrize(
  ("text", "count", "needed"), [("worst:m=8", 7, 8), ("noise", 1, 2)]
)
def test_too_few_examples(text, count, needed):
  with pytest.raises(ValueError, match=f"needs at least {needed} examples"):
    parse_measure(text).check(count)
