"""Measure what low-precision products leave of a perturbation."""

from typing import Any

import jax
import optax

from sam_jax.analysis import rounding
from scripts.benchmark.training_task import RHO, TrainingTask


def measure_rounding(task: TrainingTask) -> list[dict[str, Any]]:
  """Perturb initial weights in a random direction by the radius of SAM's steps.

  Returns:
    A row of the cosine between eps and what is left of it, by type of the
    factors of products.
  """
  params = task.create_state(task.parts(0.0)).params
  direction = optax.tree.random_like(jax.random.key(1), params)
  return [
    {
      "network": task.model,
      "rho": RHO,
      **{
        name: float(rounding.perturbation_seen(params, direction, RHO, bits))
        for name, bits in rounding.MANTISSA_BITS.items()
      },
    }
  ]
