"""The part of a perturbation that products of few bits leave."""

from scripts.benchmark import rounding
from tests.benchmark.fakes import TASK


def test_fewer_bits_leave_less():
  (row,) = rounding.measure_rounding(TASK)
  assert 0 <= row["bfloat16"] < row["TF32"] < row["float32"]
  assert row["float32"] > 0.99
