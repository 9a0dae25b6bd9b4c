"""The rule that decides if a claim holds."""

import numpy as np
import pytest

from scripts.reproduce import claims


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    ([-1.0, -1.2, -0.8], "reproduced"),
    ([1.0, 1.2, 0.8], "contradicted"),
    ([-1.0, 1.2, -0.8], "not reproduced"),
  ],
)
def test_rule_of_a_difference(differences, verdict):
  claim = claims.judge_lower("a < b", "", differences, [0.0] * 3)
  assert claim.verdict == verdict
  assert claim.difference[0] == pytest.approx(np.mean(differences))
  assert claims.judge_negative("a < b", "", differences) == claim


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    ([0.1, -0.1, 0.0], "reproduced"),
    ([5.0, 5.1, 4.9], "contradicted"),
    ([-3.0, 3.0, 0.0], "not reproduced"),
  ],
)
def test_rule_of_no_difference(differences, verdict):
  claim = claims.judge_equal("a = b", "", differences, [0.0] * 3, margin=0.5)
  assert claim.verdict == verdict


def test_slopes_are_those_of_each_seed():
  found = claims.slope([1.0, 2.0, 3.0], [[1.0, 0.0], [3.0, 0.5], [5.0, 1.0]])
  np.testing.assert_allclose(found, [2.0, 0.5])
