"""Tests; they mirror sam_jax/ and scripts/."""
