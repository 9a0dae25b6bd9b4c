"""Convolutions whose gradients are fast on CPUs, inside loops too.

XLA's library of convolutions for CPUs takes NHWC images and HWIO kernels. JAX
differentiates a convolution into ones of other layouts, which XLA rewrites
outside of loops only: inside they fall back to generic code, 25 times slower.
Here gradients are convolutions of that form from the start, of arrays that are
transposed in calls of their own.

Where an image has fewer pixels than a kernel, XLA exchanges the two, and the
same generic code follows. Here such a convolution is a matrix product, and so
are its gradients.

Accelerators need none of this.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.experimental.xla_metadata import set_xla_metadata

from sam_jax import target
from sam_jax.arguments import is_sharded

Array = jax.Array

_NHWC_HWIO = ("NHWC", "HWIO", "NHWC")


def convolve(
  x: Array,
  kernel: Array,
  strides: tuple[int, int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: tuple[int, int] = (1, 1),
  rhs_dilation: tuple[int, int] = (1, 1),
  dimension_numbers: Any = _NHWC_HWIO,
  feature_group_count: int = 1,
  precision: Any = None,
) -> Array:
  """Compute `lax.conv_general_dilated`, as `nn.Conv` calls it for images.

  Args:
    x: Images [N, H, W, groups * I].
    kernel: [height, width, I, groups * O].
    strides: Strides of the window.
    padding: "SAME", "VALID", or pixels (before, after) to add to H and to W.
    lhs_dilation: Distances of neighboring pixels.
    rhs_dilation: Distances of neighboring weights.
    dimension_numbers: The layout above, whatever its notation.
    feature_group_count: Groups of channels.
    precision: Precision of the products.

  Returns:
    [N, h, w, groups * O].
  """
  is_dilated = (*lhs_dilation, *rhs_dilation) != (1, 1, 1, 1)
  has_form = not (is_dilated or is_sharded(x) or is_sharded(kernel))
  if target.platform() != "cpu" or not has_form or x.size == 0:
    return lax.conv_general_dilated(
      *(x, kernel, strides, padding, lhs_dilation, rhs_dilation),
      dimension_numbers=dimension_numbers,
      feature_group_count=feature_group_count,
      precision=precision,
    )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      x.shape[1:3], kernel.shape[:2], strides, padding
    )
  pads = tuple((before, after) for before, after in padding)
  # Arguments that do not fit are for XLA to name.
  fits = x.dtype == kernel.dtype and x.shape[3] == kernel.shape[2]
  if feature_group_count == 1 and fits and _is_small(x, kernel, strides, pads):
    return _multiply_patches(x, kernel, strides, pads)
  x, kernel = _vary_alike(x, kernel)
  return _convolve(x, kernel, strides, pads, feature_group_count)


def _is_small(x, kernel, strides, padding):
  """Return True if x or the result has fewer pixels than the kernel.

  False where windows do not overlap: a ViT's patches have a large kernel, and
  no gradient of the image is needed. False, too, where no window fits, or
  where padding removes pixels.
  """
  image, window = x.shape[1:3], kernel.shape[:2]
  result = [
    (pixels + sum(pads) - size) // stride + 1
    for pixels, pads, size, stride in zip(
      image, padding, window, strides, strict=True
    )
  ]
  overlaps = all(np.less(strides, window))
  is_usual = min(result) > 0 and np.min(padding) >= 0
  is_small = min(np.prod(image), np.prod(result)) < np.prod(window)
  return overlaps and is_usual and is_small


def _multiply_patches(x, kernel, strides, padding):
  """Multiply the pixels under each window, [N, h, w, H * W * I], by weights."""
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = kernel.shape[:2]
  ends = x.shape[1] - height + 1, x.shape[2] - width + 1
  patches = jnp.concatenate(
    [
      x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
      for i in range(height)
      for j in range(width)
    ],
    axis=-1,
  )
  return patches @ kernel.reshape(-1, kernel.shape[-1])


def _vary_alike(*arrays):
  """Let arrays vary over the same devices in `shard_map(check_vma=True)`.

  A tangent has the type of its argument. The transposes below need the type of
  the result, which varies wherever one of the arguments does.
  """
  axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  missing = [tuple(frozenset().union(*axes) - own) for own in axes]
  return [
    lax.pcast(x, names, to="varying") if names else x
    for x, names in zip(arrays, missing, strict=True)
  ]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(x, kernel, strides, padding, groups):
  return lax.conv_general_dilated(
    *(x, kernel, strides, padding),
    dimension_numbers=_NHWC_HWIO,
    feature_group_count=groups,
  )


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(strides, padding, groups, primals, tangents):
  """Differentiate in both modes: the result is linear in each argument.

  A tangent of the result is the transpose of a gradient, which equals the
  convolution of the tangent. Reverse mode transposes it once more, and so
  arrives at the gradient in the form that it has here.
  """
  x, kernel = primals
  y = _convolve(x, kernel, strides, padding, groups)
  gradients = (
    lambda g: _image_gradient(g, kernel, x.shape, strides, padding, groups),
    lambda g: _kernel_gradient(g, x, kernel.shape, strides, padding, groups),
  )
  terms = [
    jax.linear_transpose(gradient, y)(tangent)[0]
    for gradient, tangent in zip(gradients, tangents, strict=True)
    if not isinstance(tangent, SymbolicZero)
  ]
  return y, sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(y)


def _image_gradient(g, kernel, shape, strides, padding, groups):
  """Convolve g [N, h, w, groups * O] with the reversed kernel."""
  pads = []
  for axis, (before, _) in enumerate(padding):
    size = kernel.shape[axis]
    begin = size - 1 - before
    spread = _spread(g.shape[1 + axis], strides[axis])
    pads.append((begin, shape[1 + axis] + size - 1 - spread - begin))
  return lax.conv_general_dilated(
    *(g, _swap_features(kernel[::-1, ::-1], groups), (1, 1), pads),
    lhs_dilation=strides,
    dimension_numbers=_NHWC_HWIO,
    feature_group_count=groups,
  )


def _spread(pixels, stride):
  """Return the size of `pixels` that are `stride` apart, 0 of none."""
  return max((pixels - 1) * stride + 1, 0)


def _swap_features(kernel, groups):
  """Turn [H, W, I, groups * O] into [H, W, O, groups * I]."""
  height, width, features, _ = kernel.shape
  kernel = kernel.reshape(height, width, features, groups, -1)
  kernel = kernel.transpose(0, 1, 4, 3, 2)
  return kernel.reshape(height, width, -1, groups * features)


def _kernel_gradient(g, x, shape, strides, padding, groups):
  """Convolve x with g: channels are examples, and examples are channels."""
  pads = []
  for axis, (before, _) in enumerate(padding):
    spread = _spread(g.shape[1 + axis], strides[axis])
    pads.append((before, spread + shape[axis] - 1 - x.shape[1 + axis] - before))
  # XLA does not inline this call. It would compute x once more in the loops
  # that transpose it, and take ten times as long as for what it has already.
  with set_xla_metadata(inlineable="false"):
    x = _examples_last(x, groups)
  gradient = lax.conv_general_dilated(
    *(x, g.transpose(1, 2, 0, 3), (1, 1), pads),
    rhs_dilation=strides,
    dimension_numbers=_NHWC_HWIO,
    feature_group_count=groups,
  )
  return gradient.transpose(1, 2, 0, 3)


@functools.partial(jax.jit, static_argnums=1)
def _examples_last(x, groups):
  """Turn [N, H, W, groups * I] into [I, H, W, groups * N]."""
  examples, height, width, _ = x.shape
  x = x.reshape(examples, height, width, groups, -1).transpose(4, 1, 2, 3, 0)
  return x.reshape(-1, height, width, groups * examples)
