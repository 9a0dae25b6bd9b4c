"""The part of a perturbation that a network sees.

SAM adds eps to float32 parameters. Convolutions and matrix products may round
them to fewer bits, and eps is small: of a perturbation of radius 0.05, most
weights of a large network then see nothing, and some see too much.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from sam_jax import target

# Bits of the mantissas of the types that products round their factors to.
MANTISSA_BITS = {"bfloat16": 7, "TF32": 10, "float32": 23}
_TYPE_OF_PLATFORM = {"tpu": "bfloat16", "gpu": "TF32"}


def mantissa_bits(config: ConfigDict) -> int:
  """Return the bits that training leaves of the mantissa of a weight.

  Two terms of bfloat16, as `precision="high"` takes them on a TPU, count as
  float32.

  Args:
    config: Config of a run.
  """
  if config.model.dtype == "bfloat16":
    return MANTISSA_BITS["bfloat16"]
  platform_type = _TYPE_OF_PLATFORM.get(target.platform(), "float32")
  return MANTISSA_BITS["float32" if config.model.precision else platform_type]


@jax.jit(static_argnames="bits")
def perturbation_seen(
  params: Any, gradient: Any, rho: jax.typing.ArrayLike, bits: int
) -> jax.Array:
  """Return the cosine between eps and its part that is left after rounding.

  Args:
    params: Parameters w, a float32 tree.
    gradient: Gradient at w: eps has its direction, and the length `rho`.
    rho: Radius of the perturbation.
    bits: Mantissa bits of kernels in products. Parameters of one axis take
      part in no product.

  Returns:
    float32 (): 1 without rounding, 0 if nothing is left.
  """

  def rounded(w):
    if w.ndim < 2:
      return w
    return lax.reduce_precision(w, exponent_bits=8, mantissa_bits=bits)

  norm = optax.tree.norm(gradient)
  scale = rho / jnp.where(norm > 0, norm, 1)
  perturbed = jax.tree.map(lambda w, g: w + scale * g, params, gradient)
  eps = optax.tree.sub(perturbed, params)
  seen = jax.tree.map(lambda a, b: rounded(a) - rounded(b), perturbed, params)
  norms = optax.tree.norm(eps) * optax.tree.norm(seen)
  cosine = optax.tree.vdot(eps, seen) / jnp.where(norms > 0, norms, 1)
  return jnp.where(norms > 0, cosine, 0.0)
