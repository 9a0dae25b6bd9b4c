"""Sharpness-Aware Minimization (Foret et al., ICLR 2021) in JAX.

The transformation is `sharpness_aware`, the drop-in optimizer around it `sam`;
`python -m sam_jax.train` runs the paper's experiments.
"""

from sam_jax.m_sharpness import m_sharpness_layout
from sam_jax.models import create_model
from sam_jax.sam import mean_across, sam, sharpness_aware

__all__ = [
  "create_model",
  "m_sharpness_layout",
  "mean_across",
  "sam",
  "sharpness_aware",
]
__version__ = "0.1.0"
