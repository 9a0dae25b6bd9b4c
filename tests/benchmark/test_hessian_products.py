"""The cost of a Hessian-vector product."""

import types

import pytest

from sam_jax.analysis.objective import Objective
from scripts.benchmark import hessian_products
from tests.benchmark.fakes import TASK, FakeTime


def test_product_is_compared_with_a_gradient(monkeypatch):
  clock = FakeTime()
  monkeypatch.setattr(
    hessian_products,
    "time",
    types.SimpleNamespace(process_time=clock.process_time),
  )

  def taking(seconds, method):
    def call(*args):
      clock.work(seconds)
      return method(*args)

    return call

  for name, seconds in (("value_and_grad", 0.2), ("hessian_product", 0.5)):
    method = taking(seconds, getattr(Objective, name))
    monkeypatch.setattr(Objective, name, method)
  (row,) = hessian_products.measure_hessian_product(TASK, rounds=2)
  assert row["gradient s"] == pytest.approx((0.2,) * 3)
  assert row["product over gradient"] == pytest.approx((2.5,) * 3)
  # Parameters, the vector and the examples; activations are temporary.
  assert 1 < row["gradient copies"] < row["product copies"]
