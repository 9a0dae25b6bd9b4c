"""Benchmarks of networks and products that take no time."""

import pytest

from sam_jax.training import build
from scripts.benchmark import program_costs
from tests import tiny


@pytest.fixture(autouse=True)
def small_programs(monkeypatch):
  monkeypatch.setattr(build, "model", tiny.create_model)
  monkeypatch.setattr(program_costs, "_SIDES", {"cpu": (32, 64)})
