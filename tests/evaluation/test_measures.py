"""Measures of predictions against values that are counted by hand."""

import numpy as np
import pytest

from sam_jax.evaluation import measures

LABELS = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 1, 1, 1, 0, 1]
CONFIDENCES = [0.9, 0.8, 0.5, 0.6, 0.7, 1.0]


@pytest.fixture
def outcomes():
  return {
    "label": np.array(LABELS, np.int32),
    "prediction": np.array(PREDICTIONS, np.int32),
    "confidence": np.array(CONFIDENCES, np.float32),
    "nll": np.array([1, 2, 3, 4, 5, 6], np.float32),
    "is_in_top_5": np.array([True] * 5 + [False]),
  }


def test_summary(outcomes):
  assert measures.summary(outcomes, 3) == {
    "error_rate": pytest.approx(4 / 6),
    "nll": 3.5,
    "ece": pytest.approx((0.1 + 0.8 + 0.5 + 0.4 + 0.7 + 1.0) / 6),
  }
  assert measures.summary(outcomes, 6)["top_5_error_rate"] == 1 / 6


def test_calibration_error_is_the_mean_gap_of_the_bins():
  confidence = np.array([0.2, 0.4, 0.5, 0.51, 0.9, 1.0], np.float32)
  is_right = np.array([True, False, True, False, True, True])
  # Bins (0, 0.5] and (0.5, 1]: a value on the border is in the lower one.
  gaps = abs(2 - 1.1), abs(2 - 2.41)
  found = measures.calibration_error(confidence, is_right, bins=2)
  assert found == pytest.approx(sum(gaps) / 6)
  always = measures.calibration_error(np.full(4, 0.75), np.arange(4) > 0)
  assert always == pytest.approx(0)


def test_confusion_and_classes(outcomes):
  confusion = measures.confusion_matrix(outcomes, 4)
  expected = [[1, 2, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(confusion, expected)
  names = ("cat", "dog", "owl", "none")
  rows = measures.class_rows(confusion, names)
  assert rows[0] == {
    "class": "cat",
    "examples": 3,
    "error_rate": pytest.approx(2 / 3),
    "predicted": 2,
    "precision": 0.5,
    "taken_for": "dog",
  }
  assert rows[3] == {
    "class": "none",
    "examples": 0,
    "error_rate": None,
    "predicted": 0,
    "precision": None,
    "taken_for": "",
  }
