"""Lines and planes of a quadratic loss, which is known everywhere."""

import jax
import numpy as np
import pytest

from sam_jax import models
from sam_jax.analysis import landscape
from sam_jax.analysis.objective import Objective

random = np.random.default_rng(0)
CENTERS = random.normal(size=(11, 3, 4)).astype(np.float32)
PARAMS = {
  "kernel": random.normal(size=(3, 4)).astype(np.float32),
  "bias": np.ones(4, np.float32),
}
DISTANCES = [-1.0, 0.0, 0.5]


def example_losses(params, batch):
  """Half the squared distance of each example to the kernel."""
  offsets = params["kernel"] - batch["center"]
  return 0.5 * (offsets**2).sum(axis=(1, 2)) + params["bias"].sum()


@pytest.fixture(scope="module")
def objective():
  return Objective(example_losses, {"center": CENTERS}, batch_size=8)


def losses_along(objective, params, direction, distances):
  return [
    landscape.loss_at(objective, params, (direction, distance))
    for distance in distances
  ]


def loss(kernel, bias=PARAMS["bias"]):
  return np.mean(0.5 * ((kernel - CENTERS) ** 2).sum((1, 2))) + bias.sum()


def test_each_filter_of_a_direction_is_as_long_as_the_networks():
  params = {
    "kernel": random.normal(size=(3, 3, 2, 5)).astype(np.float32),
    "scale": np.ones(5, np.float32),
  }
  direction = landscape.random_direction(params, seed=[0, 1])
  np.testing.assert_allclose(
    np.sqrt((direction["kernel"] ** 2).sum(axis=(0, 1, 2))),
    np.sqrt((params["kernel"] ** 2).sum(axis=(0, 1, 2))),
    rtol=1e-5,
  )
  assert not direction["scale"].any()
  same = landscape.random_direction(params, seed=[0, 1])
  other = landscape.random_direction(params, seed=[0, 2])
  np.testing.assert_array_equal(direction["kernel"], same["kernel"])
  assert np.any(direction["kernel"] != other["kernel"])


def test_a_depthwise_kernel_has_a_filter_for_each_channel():
  spec = models.create_model("efficientnet_b0", 10)
  shapes = jax.eval_shape(
    lambda: spec.init(jax.random.key(0), np.zeros((1, 32, 32, 3)), train=False)
  )["params"]["MBConvBlock_1"]["depthwise_conv2d"]
  (kernel,) = jax.tree.map(
    lambda x: random.normal(size=x.shape).astype(np.float32),
    jax.tree.leaves(shapes),
  )
  kernel *= 2.0 ** random.integers(-9, 9, size=(32, 1))
  direction = landscape.random_direction({"kernel": kernel}, seed=0)["kernel"]
  lengths = np.sqrt((direction**2).sum((0, 1)))
  assert lengths.shape == (32, 1)
  np.testing.assert_allclose(lengths, np.sqrt((kernel**2).sum((0, 1))), 1e-5)


def test_a_layer_with_one_output_has_one_filter():
  kernel = random.normal(size=(7, 1)).astype(np.float32)
  direction = landscape.random_direction({"kernel": kernel}, seed=0)["kernel"]
  assert np.linalg.norm(direction) == pytest.approx(np.linalg.norm(kernel))
  assert np.ptp(np.abs(direction / kernel)) > 0.1


def test_plane_of_a_quadratic(objective):
  right, up = (landscape.random_direction(PARAMS, seed) for seed in (0, 1))
  for y in DISTANCES:
    row = [
      landscape.loss_at(objective, PARAMS, (up, y), (right, x))
      for x in DISTANCES
    ]
    expected = [
      loss(PARAMS["kernel"] + x * right["kernel"] + y * up["kernel"])
      for x in DISTANCES
    ]
    np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_line_joins_two_networks(objective):
  end = jax.tree.map(lambda w: 2 * w + 1, PARAMS)
  direction = landscape.direction_between(PARAMS, end)
  line = losses_along(objective, PARAMS, direction, [0, 0.5, 1])
  expected = [
    loss(*((1 - t) * PARAMS[k] + t * end[k] for k in ("kernel", "bias")))
    for t in (0, 0.5, 1)
  ]
  np.testing.assert_allclose(line, expected, rtol=1e-5)


def test_sam_looks_along_the_gradient(objective):
  direction = landscape.sam_direction(objective, PARAMS)
  gradient = PARAMS["kernel"] - CENTERS.mean(axis=0)
  norm = np.sqrt((gradient**2).sum() + 4)  # it is 1 for each bias
  np.testing.assert_allclose(direction["kernel"], gradient / norm, rtol=1e-4)
  line = losses_along(objective, PARAMS, direction, DISTANCES)
  curvature = (gradient**2).sum() / norm**2
  start = loss(PARAMS["kernel"])
  expected = [start + norm * t + curvature * t**2 / 2 for t in DISTANCES]
  np.testing.assert_allclose(line, expected, rtol=1e-5)


def test_flat_loss_has_no_direction():
  flat = Objective(
    lambda params, batch: 0 * params["w"].sum() + batch["x"],
    {"x": np.ones(8, np.float32)},
    batch_size=8,
  )
  direction = landscape.sam_direction(flat, {"w": np.ones(3, np.float32)})
  np.testing.assert_array_equal(direction["w"], 0)


def test_networks_must_have_the_same_architecture():
  other = {**PARAMS, "kernel": np.ones((3, 5), np.float32)}
  with pytest.raises(ValueError, match="different architectures"):
    landscape.direction_between(PARAMS, other)
