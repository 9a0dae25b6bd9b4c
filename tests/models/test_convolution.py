"""The convolutions against those of JAX, in every mode of differentiation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sam_jax.models.convolution import convolve

_NHWC_HWIO = ("NHWC", "HWIO", "NHWC")

# (size of images, size of kernels, stride, padding, groups)
_CASES = [
  (8, 3, 1, "SAME", 1),
  (8, 3, 2, "SAME", 1),
  (9, 3, 2, "VALID", 1),
  (8, 1, 2, "SAME", 1),
  (16, 7, 2, ((2, 3), (3, 2)), 1),
  (7, 5, 3, ((0, 1), (4, 0)), 1),
  (8, 3, 2, "SAME", 2),
  (8, 3, 1, "SAME", 6),
]


def _of_jax(x, kernel, strides, padding, feature_group_count):
  return lax.conv_general_dilated(
    *(x, kernel, strides, padding),
    dimension_numbers=_NHWC_HWIO,
    feature_group_count=feature_group_count,
  )


@pytest.mark.parametrize("case", _CASES)
def test_derivatives_equal_those_of_jax(case):
  size, width, stride, padding, groups = case
  generator = np.random.default_rng(0)
  x = generator.standard_normal((3, size, size + 1, 6), np.float32)
  kernel = generator.standard_normal((width, width, 6 // groups, 12))
  w = (jnp.asarray(x), jnp.asarray(kernel, jnp.float32))
  direction = jax.tree.map(jnp.cos, w)

  def derivatives(convolution):
    def loss(x, kernel):
      y = convolution(
        x, kernel, (stride, stride), padding, feature_group_count=groups
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
    jax.tree.map(
      lambda a, b, name=name: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=2e-4, err_msg=name
      ),
      ours[name],
      expected[name],
    )


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
