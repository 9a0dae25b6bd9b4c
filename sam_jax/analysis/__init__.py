"""Analyses of trained networks: sharpness, Hessian spectra, surfaces."""
