"""The options of XLA that commands choose on CPUs."""

import importlib.metadata
import os

import pytest

from sam_jax.runs import compilation
from tests.processes import known_flags


def test_installed_jaxlib_knows_the_flag():
  flag = compilation.FLAG_FOR_CPUS
  assert known_flags((flag,)) == [flag]


@pytest.mark.parametrize("before", [None, "", "--xla_dump_to=/tmp/x"])
def test_flag_joins_those_of_the_user(monkeypatch, before):
  if before is None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
  else:
    monkeypatch.setenv("XLA_FLAGS", before)
  compilation.choose_xla_flags()
  compilation.choose_xla_flags()
  flags = os.environ["XLA_FLAGS"].split()
  assert flags == [*(before or "").split(), compilation.FLAG_FOR_CPUS]


@pytest.mark.parametrize(
  "choice",
  [
    "--xla_cpu_experimental_ynn_fusion_type=-dot",
    "/home/me/flags.txt",  # XLA reads the options from this file
  ],
)
def test_choice_of_the_user_stays(monkeypatch, choice):
  monkeypatch.setenv("XLA_FLAGS", choice)
  compilation.choose_xla_flags()
  assert os.environ["XLA_FLAGS"] == choice


@pytest.mark.parametrize("version", ["0.9.2", "0.13.0", "1.0.0"])
def test_other_versions_of_jaxlib_get_no_flag(monkeypatch, version):
  monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
  monkeypatch.setenv("XLA_FLAGS", "")
  compilation.choose_xla_flags()
  assert os.environ["XLA_FLAGS"] == ""
