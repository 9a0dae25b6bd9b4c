"""Augmentation on the device, in JAX, on uint8 images."""
