"""Numbers and their nouns; the examples of the docstrings are the test."""

import doctest

from sam_jax import wording


def test_examples_in_docstrings_run():
  results = doctest.testmod(wording)
  assert (results.failed, results.attempted) == (0, 2)
