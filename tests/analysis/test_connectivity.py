"""Paths between networks: geometry, batch statistics, and the trained curve."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.analysis import connectivity
from sam_jax.models import LayerSettings


class Perceptron(nn.Module):
  settings: LayerSettings = dataclasses.field(default_factory=LayerSettings)

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Dense(6, name="first")(x.reshape(len(x), -1))
    if self.settings.normalize:
      x = nn.BatchNorm(
        use_running_average=not train,
        momentum=self.settings.momentum,
        axis_name=self.settings.batch_norm_axis,
        name="norm",
      )(x)
    return nn.Dense(2, name="last")(nn.relu(x))


def preprocess(images):
  return images / 128.0 - 1.0


def examples(count=32):
  random = np.random.default_rng(0)
  images = random.integers(256, size=(count, 1, 3, 1)).astype(np.uint8)
  return {
    "image": images,
    "label": (images.sum(axis=(1, 2, 3)) % 2).astype(int),
  }


def network(**settings):
  model = Perceptron(LayerSettings(batch_norm_axis="batch", **settings))
  local = model.clone(settings=LayerSettings(**settings))
  variables = local.init(
    jax.random.key(0), jnp.zeros((1, 1, 3, 1)), train=False
  )
  variables = jax.device_get({"batch_stats": {}, **variables})
  return connectivity.TrainModePass(model, preprocess, seed=0), variables


def test_curve_starts_and_ends_at_the_ends():
  a, b, c = (np.array(x, np.float32) for x in ([0, 1], [5, 5], [4, -1]))
  at = lambda t: connectivity.point_on_curve(a, b, c, t)  # noqa: E731
  np.testing.assert_allclose(at(0.0), a)
  np.testing.assert_allclose(at(1.0), c)
  np.testing.assert_allclose(at(0.5), a / 4 + b / 2 + c / 4)
  middle = connectivity.midpoint(a, c)
  for t in (0.2, 0.7):
    line = connectivity.point_on_curve(a, middle, c, t)
    np.testing.assert_allclose(line, (1 - t) * a + t * c, rtol=1e-6)


@pytest.mark.parametrize(
  ("values", "expected"),
  [([1, 5, 3], 3), ([3, 0, 1], 0), ([0, 4, 1, 3], 3), ([2, 2], 0)],
)
def test_barrier_is_the_rise_above_the_chord(values, expected):
  assert connectivity.barrier(np.array(values, float)) == expected


def test_statistics_are_those_of_the_parameters():
  """They don't depend on the statistics of the run; 32 = 3 * 10 + 2."""
  passes, variables = network()
  batches = examples()
  found = passes.statistics(variables, batches, 10)["norm"]
  first = variables["params"]["first"]
  x = preprocess(batches["image"].reshape(32, 3).astype(float))
  hidden = (x @ first["kernel"] + first["bias"])[:30].reshape(3, 10, 6)
  expected = hidden.mean(axis=1).mean(axis=0)
  np.testing.assert_allclose(found["mean"], expected, atol=1e-5)
  expected = hidden.var(axis=1).mean(axis=0)
  np.testing.assert_allclose(found["var"], expected, atol=1e-5)
  everything = passes.statistics(variables, batches, 99)["norm"]["mean"]
  all_hidden = x @ first["kernel"] + first["bias"]
  np.testing.assert_allclose(everything, all_hidden.mean(axis=0), atol=1e-5)


def test_networks_without_batch_statistics_have_none():
  passes, variables = network(normalize=False)
  assert passes.statistics(variables, examples(), 10) == {}


def test_curve_goes_around_the_barrier_of_a_permuted_network():
  """Hidden units in another order are the same function, far away."""
  passes, variables = network(normalize=False)
  params = {
    "first": {
      "kernel": 2 * np.eye(3, 6, dtype=np.float32),
      "bias": np.zeros(6, np.float32),
    },
    "last": {
      "kernel": np.array(
        [[2, -2], [2, -2], [2, -2], *[[0, 0]] * 3], np.float32
      ),
      "bias": np.array([-3, 3], np.float32),
    },
  }
  order = [5, 4, 3, 2, 1, 0]
  permuted = {
    "first": {
      "kernel": params["first"]["kernel"][:, order],
      "bias": np.zeros(6, np.float32),
    },
    "last": params["last"] | {"kernel": params["last"]["kernel"][order]},
  }
  start, end = ({**variables, "params": p} for p in (params, permuted))
  batch = examples()
  logits = Perceptron(LayerSettings(normalize=False)).apply(
    start, preprocess(batch["image"]), train=False
  )
  batch["label"] = np.asarray(logits).argmax(axis=1)  # a loss near zero

  def losses(middle):
    points = [
      connectivity.point_on_curve(params, middle, permuted, t)
      for t in np.linspace(0, 1, 11)
    ]
    return np.array(
      [passes.loss({**start, "params": p}, batch) for p in points]
    )

  line = losses(connectivity.midpoint(params, permuted))
  done = []
  arguments = passes, start, end, batch, 16
  options = {"steps": 60, "learning_rate": 0.1}
  middle = connectivity.find_curve(*arguments, **options, on_step=done.append)
  curve = losses(middle)
  assert curve[[0, -1]] == pytest.approx(line[[0, -1]])
  assert connectivity.barrier(curve) < 0.3 * connectivity.barrier(line)
  assert sum(done) == 60
  again = connectivity.find_curve(*arguments, **options)
  jax.tree.map(np.testing.assert_array_equal, middle, again)
