"""The convolutions against those of JAX, in every mode of differentiation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sam_jax.models.convolution import convolve

_NHWC_HWIO = ("NHWC", "HWIO", "NHWC")

# (height of images, size of kernels, strides, padding, groups); one number for
# both axes.
_CASES = [
  (8, 3, 1, "SAME", 1),
  (8, 3, 2, "SAME", 1),
  (9, 3, 2, "VALID", 1),
  (8, 1, 2, "SAME", 1),
  (16, 7, 2, ((2, 3), (3, 2)), 1),
  (7, 5, 3, ((0, 1), (4, 0)), 1),
  (8, 3, 2, "SAME", 2),
  (8, 3, 1, "SAME", 6),
  (1, 3, 1, "SAME", 1),
  (2, 3, 1, "SAME", 1),
  (4, 3, 2, "SAME", 1),
  (3, 5, 3, ((0, 2), (4, 0)), 1),
  (2, 3, 1, "SAME", 2),
  (3, 5, 1, "VALID", 1),
  (2, 3, 1, ((-1, 2), (1, 1)), 1),
  (3, 5, 2, "VALID", 1),  # no window fits
  (2, (3, 4), (1, 2), "SAME", 1),
  (9, (5, 3), (2, 3), ((1, 2), (0, 1)), 1),
]


def _of_jax(x, kernel, strides, padding, feature_group_count):
  return lax.conv_general_dilated(
    *(x, kernel, strides, padding),
    dimension_numbers=_NHWC_HWIO,
    feature_group_count=feature_group_count,
  )


@pytest.mark.parametrize("case", _CASES)
def test_derivatives_equal_those_of_jax(case):
  size, window, strides, padding, groups = case
  window, strides = np.broadcast_to(window, 2), np.broadcast_to(strides, 2)
  generator = np.random.default_rng(0)
  x = generator.standard_normal((3, size, size + 1, 6), np.float32)
  kernel = generator.standard_normal((*window, 6 // groups, 12))
  kernel /= window[
    0
  ]  # else sums of large kernels are large, and so is rounding
  w = (jnp.asarray(x), jnp.asarray(kernel, jnp.float32))
  direction = jax.tree.map(jnp.cos, w)

  def derivatives(convolution):
    def loss(x, kernel):
      y = convolution(
        *(x, kernel, tuple(map(int, strides)), padding),
        feature_group_count=groups,
      )
      return jnp.sum(jnp.sin(y))

    def slope(*w):
      return jax.jvp(loss, w, direction)[1]

    gradient = jax.grad(loss, (0, 1))
    return {
      "forward": slope(*w),
      "reverse": gradient(*w),
      "kernel alone": jax.grad(loss, 1)(*w),
      "forward over reverse": jax.jvp(gradient, w, direction)[1],
      "reverse over forward": jax.grad(slope, (0, 1))(*w),
      "mapped": jax.vmap(gradient, (None, 0))(w[0], jnp.stack([w[1], -w[1]])),
    }

  ours, expected = (
    jax.jit(derivatives, static_argnums=0)(f) for f in (convolve, _of_jax)
  )
  for name in expected:
    pairs = map(jax.tree.leaves, (ours[name], expected[name]))
    for a, b in zip(*pairs, strict=True):
      rounding = max(2e-5, 2e-6 * np.abs(b).max())
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=rounding, err_msg=name)


@pytest.mark.parametrize("size, stride", [(1, 1), (2, 1), (1, 2), (4, 2)])
def test_images_and_kernels_are_not_exchanged(size, stride):
  """XLA reverses the window where it exchanges them, into slow code."""
  x, kernel = jnp.zeros((4, size, size, 6)), jnp.zeros((3, 3, 6, 12))

  def text(convolution):
    def slope(x, kernel):
      def loss(x, kernel):
        y = convolution(
          x, kernel, (stride, stride), "SAME", feature_group_count=1
        )
        return jnp.sum(y**3)

      return jax.jvp(loss, (x, kernel), (x, kernel))[1]

    product = jax.jit(jax.grad(slope, (0, 1)))
    return product.lower(x, kernel).compile().as_text()

  assert "rhs_reversal" not in text(convolve)
  assert "rhs_reversal" in text(_of_jax)


def test_patches_of_a_vit_are_convolved():
  """Its kernels do not overlap, and need no gradient of the image."""
  shapes = (4, 8, 8, 3), (16, 16, 3, 12)
  for x, kernel in (shapes, ((4, 8, 8, 3), (4, 4, 3, 12))):
    jaxpr = jax.make_jaxpr(
      lambda x, kernel: convolve(x, kernel, kernel.shape[:2], "SAME")
    )(jnp.zeros(x), jnp.zeros(kernel))
    assert "conv_general_dilated" in str(jaxpr)


@pytest.mark.parametrize(
  ("x", "kernel", "words"),
  [
    (jnp.zeros((1, 2, 2, 6)), jnp.zeros((3, 3, 5, 4)), "feature"),
    (jnp.zeros((1, 2, 2, 6), "bfloat16"), jnp.zeros((3, 3, 6, 4)), "dtypes"),
  ],
)
def test_small_images_that_do_not_fit_are_named(x, kernel, words):
  with pytest.raises((TypeError, ValueError), match=words):
    convolve(x, kernel, (1, 1), "SAME")


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_have_the_layout_that_is_fast_inside_loops(groups):
  x = jnp.zeros((4, 3, 8, 8, 6))
  kernel = jnp.zeros((3, 3, 6 // groups, 12))

  def layouts(convolution):
    def loss(x, kernel):
      y = convolution(x, kernel, (2, 2), "SAME", feature_group_count=groups)
      return jnp.sum(y**2)

    gradient = jax.grad(loss, (0, 1))
    program = jax.jit(
      lambda x, kernel: lax.map(lambda x: gradient(x, kernel), x)
    )
    text = program.lower(x, kernel).as_text()
    return re.findall(r"dim_numbers = (\S.*?->\[.*?\])", text)

  expected = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
  assert layouts(convolve) == [expected] * 3
  assert set(layouts(_of_jax)) > {expected}


def test_images_are_not_computed_again_where_they_are_transposed():
  x, kernel = jnp.zeros((4, 8, 8, 6)), jnp.zeros((3, 3, 6, 12))

  @jax.jit
  def gradient(x, kernel):
    def loss(kernel):
      y = convolve(nn.relu(2 * x + 1), kernel, (1, 1), "SAME")
      return jnp.sum(y**2)

    return jax.grad(loss)(kernel)

  text = gradient.lower(x, kernel).compile().as_text()
  (transposed,) = re.findall(r" call\((\S+)\)", text)
  forward, _ = re.findall(r" convolution\((\S+), ", text)
  assert transposed == forward


def _gradients(x, kernel):
  def loss(x, kernel):
    return jnp.sum(jnp.sin(convolve(x, kernel, (2, 2), "SAME")))

  return jax.grad(loss, (0, 1))(x, kernel)


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize("type_of_axis", ["Auto", "Explicit"])
def test_images_on_several_devices_have_the_same_gradients(type_of_axis, size):
  generator = np.random.default_rng(0)
  shapes = (4, size, size, 3), (3, 3, 3, 5)
  x, kernel = (generator.standard_normal(s, np.float32) for s in shapes)
  expected = _gradients(x, kernel)
  mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType[type_of_axis],))
  x = jax.device_put(x, NamedSharding(mesh, P("x")))
  kernel = jax.device_put(kernel, NamedSharding(mesh, P()))
  specs = (P("x"), P())
  # The types of its arguments say that images vary, and the kernel does not.
  typed = jax.shard_map(
    _gradients, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=True
  )
  for mapped in (typed, _gradients):
    with jax.set_mesh(mesh):
      found = jax.jit(mapped)(x, kernel)
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_images_have_gradients_of_zero():
  x, kernel = jnp.zeros((0, 6, 6, 3)), jnp.ones((3, 3, 3, 5))
  of_x, of_kernel = _gradients(x, kernel)
  assert of_x.shape == x.shape
  assert not np.any(of_kernel) and of_kernel.shape == kernel.shape
