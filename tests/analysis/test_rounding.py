"""The part of a perturbation that is left after products round weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import target
from sam_jax.analysis.rounding import mantissa_bits, perturbation_seen
from sam_jax.config.schema import default_config

BFLOAT16, TF32, FLOAT32 = 7, 10, 23


@pytest.mark.parametrize(
  ("fields", "bits"),
  [
    ({}, {"cpu": FLOAT32, "gpu": TF32, "tpu": BFLOAT16}),
    ({"precision": "highest"}, {"gpu": FLOAT32, "tpu": FLOAT32}),
    ({"dtype": "bfloat16"}, {"cpu": BFLOAT16, "gpu": BFLOAT16}),
  ],
)
def test_bits_of_weights_in_products(fields, bits):
  config = default_config()
  config.model.update(fields)
  for platform, expected in bits.items():
    with target.compiling_for(platform):
      assert mantissa_bits(config) == expected


def test_a_small_perturbation_is_mostly_lost():
  """Weights and eps as large as those of WRN-28-10, eps in random directions.

  NumPy with ml_dtypes gives the expected values.
  """
  random = np.random.default_rng(0)
  kernel = 0.02 * random.normal(size=(1000, 1000)).astype(np.float32)
  gradient = random.normal(size=(1000, 1000)).astype(np.float32)
  rho = 8e-6 * 1000

  def seen(bits, weight=kernel, slope=gradient, rho=rho):
    return float(perturbation_seen({"w": weight}, {"w": slope}, rho, bits=bits))

  perturbed = kernel + rho * gradient / np.linalg.norm(gradient)
  eps = perturbed - kernel
  rounded = [w.astype(jnp.bfloat16) for w in (perturbed, kernel)]
  left = np.subtract(*(w.astype(np.float32) for w in rounded))
  cosine = np.vdot(eps, left) / np.linalg.norm(eps) / np.linalg.norm(left)
  assert seen(BFLOAT16) == pytest.approx(cosine, rel=1e-3)
  assert 0.2 < seen(BFLOAT16) < 0.5 < seen(TF32) < 0.95
  assert seen(FLOAT32) == pytest.approx(1, abs=1e-4)
  assert seen(BFLOAT16, rho=100.0) > 0.99
  assert seen(BFLOAT16, rho=0.0) == seen(TF32, slope=0 * gradient) == 0
  # A bias takes part in no product.
  assert seen(BFLOAT16, kernel[0], gradient[0]) == pytest.approx(1, abs=1e-4)
