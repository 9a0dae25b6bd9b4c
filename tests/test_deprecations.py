"""Deprecated API is an error in our own modules, and only there."""

import warnings

import pytest


@pytest.mark.parametrize(
  "module",
  [
    "sam_jax",
    "sam_jax.training.step",
    "scripts.benchmark.inputs",
    "tests.test_sam",
  ],
)
def test_our_modules(module):
  with pytest.raises(DeprecationWarning, match="old"):
    warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module)


@pytest.mark.parametrize("module", ["jax", "jax.sam_jax", "sam_jax_next.sam"])
def test_modules_of_others(module):
  with warnings.catch_warnings(record=True) as caught:
    warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module)
  assert [str(warning.message) for warning in caught] == ["old"]


def test_this_module():
  """Hold that a test's module has the name that the filter expects."""
  with pytest.raises(DeprecationWarning, match="old"):
    warnings.warn("old", DeprecationWarning, stacklevel=1)
