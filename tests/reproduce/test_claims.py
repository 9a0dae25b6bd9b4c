"""The rule that decides if a claim holds, and its correction."""

import numpy as np
import pytest
from scipy import stats

from scripts.reproduce import claims
from scripts.reproduce.claims import Claim, holm, judge


def claim_of(differences, margin=None):
  return Claim("a < b", "", "", tuple(differences), margin=margin)


@pytest.mark.parametrize(
  ("differences", "word"),
  [
    ([-1.0, -1.2, -0.8], "reproduced"),
    ([1.0, 1.2, 0.8], "contradicted"),
    ([-1.0, 1.2, -0.8], "not reproduced"),
    ([-1.0, -1.0, -1.0], "reproduced"),
    ([0.0, 0.0, 0.0], "not reproduced"),
  ],
)
def test_rule_of_a_difference(differences, word):
  (verdict,) = judge([claim_of(differences)])
  assert verdict.word == word
  if np.std(differences):
    expected = stats.ttest_1samp(differences, 0.0).pvalue
    assert verdict.p_value == pytest.approx(expected)


@pytest.mark.parametrize(
  ("differences", "word"),
  [
    ([0.1, -0.1, 0.0], "reproduced"),
    ([5.0, 5.1, 4.9], "contradicted"),
    ([-5.0, -5.1, -4.9], "contradicted"),
    ([-3.0, 3.0, 0.0], "not reproduced"),
  ],
)
def test_rule_of_no_difference(differences, word):
  (verdict,) = judge([claim_of(differences, margin=0.5)])
  assert verdict.word == word


def test_holm_corrects_for_the_number_of_claims():
  # The example of the method's description: sorted, times 4, 3, 2, 1.
  found = holm([0.01, 0.04, 0.03, 0.005])
  assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
  assert holm([0.9, 0.8]) == [1.0, 1.0]
  alone = claim_of([-1.0, -1.3, -0.7])
  assert judge([alone])[0].word == "reproduced"
  others = [claim_of([-1.0, 1.2, 0.0])] * 9
  assert judge([alone, *others])[0].word == "not reproduced"


def test_verdicts_do_not_depend_on_the_order_of_claims():
  random = np.random.default_rng(0)
  listed = [claim_of(random.normal(-i / 4, 1, 8)) for i in range(8)]
  assert judge(listed[::-1]) == judge(listed)[::-1]


def test_open_claims_say_what_would_decide_them():
  wide, narrow = claim_of([-1.0, 1.4, -1.0]), claim_of([-1.0, 0.5, -1.0])
  needed = [int(judge([c])[0].needed.split()[0]) for c in (wide, narrow)]
  assert needed[0] > needed[1] > 3
  # (1.96 + 0.84)^2 standard deviations over means, for a power of 80%.
  spread = np.std(narrow.differences, ddof=1) / 0.5
  assert needed[1] == np.ceil(2.8016**2 * spread**2)
  (verdict,) = judge([claim_of([1.0, -0.8, 0.3])])
  assert verdict.needed == "the mean is on the other side"
  assert judge([claim_of([-1.0, -1.1, -1.2])])[0].needed == ""


def test_slopes_are_those_of_each_seed():
  found = claims.slopes([1.0, 2.0, 3.0], [[1.0, 0.0], [3.0, 0.5], [5.0, 1.0]])
  np.testing.assert_allclose(found, [2.0, 0.5])
