"""Analyses of trained networks: sharpness, Hessian spectra, surfaces."""

import sam_jax.config  # noqa: F401  names the extra that is missing
