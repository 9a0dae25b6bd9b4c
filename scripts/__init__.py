"""Experiments on the package and scripts for machines, outside the wheel."""
