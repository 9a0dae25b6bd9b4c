"""Needs of a config on a TPU slice, read from compiled programs."""
