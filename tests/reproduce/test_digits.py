"""Splits of the digits."""

import numpy as np
import pytest

from scripts.reproduce import digits


def test_splits_are_disjoint_and_differ_between_seeds():
  data = digits.draw_splits(2, noise_rate=0.5)
  assert [x.labels.shape for x in data] == [(2, 512), (2, 285), (2, 1000)]
  images = np.concatenate([x.images for x in data], axis=1)
  for rows in images:
    assert len(np.unique(rows, axis=0)) == len(np.unique(images[0], axis=0))
  assert not np.array_equal(data.test.labels[0], data.test.labels[1])
  clean = digits.draw_splits(2)
  wrong = (clean.train.labels != data.train.labels).mean(axis=1)
  assert wrong == pytest.approx(0.45, abs=0.06)  # half, of ten classes
  assert np.array_equal(clean.test.labels, data.test.labels)
