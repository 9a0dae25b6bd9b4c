"""The options of XLA that commands choose, and where programs are kept."""

import importlib.metadata
import os

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sam_jax.runs import compilation
from tests.bucket import ROOT
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


@pytest.fixture
def cache_of_jax():
  """Return how to read the directory; restore the options of JAX in the end."""
  options = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_enable_xla_caches",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {name: getattr(jax.config, name) for name in options}
  yield lambda: jax.config.jax_compilation_cache_dir
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def test_programs_are_kept_for_the_user_or_for_all_hosts_of_a_run(
  cache_of_jax, tmp_path, monkeypatch
):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  keep = compilation.keep_compiled_programs
  keep(None, tmp_path / "run")
  assert cache_of_jax() == str(tmp_path / "home/.cache/sam_jax/compiled")
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  keep(None, tmp_path / "run")
  assert cache_of_jax() == str(tmp_path / "run/compiled")
  # A run that is refused later leaves nothing.
  assert not (tmp_path / "run").exists()
  keep(str(tmp_path / "chosen"), tmp_path / "run")
  assert cache_of_jax() == str(tmp_path / "chosen")
  keep("", tmp_path / "run")
  assert cache_of_jax() == str(tmp_path / "chosen")


def test_hosts_find_programs_in_a_bucket(cache_of_jax, bucket, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  compilation.keep_compiled_programs(None, f"{ROOT}/run")
  assert cache_of_jax() == f"{ROOT}/run/compiled"
  compilation_cache.reset_cache()
  hits = []

  def listen(event, **_):
    hits.extend([event] if event.endswith("cache_hits") else [])

  jax.monitoring.register_event_listener(listen)
  for is_kept in (False, True):
    assert jax.jit(lambda x: x * 0.123)(np.float32(1)) > 0
    assert bool(hits) == is_kept
    jax.clear_caches()
  assert any(name.startswith("run/compiled/") for name in bucket.names(""))
  jax.monitoring.unregister_event_listener(listen)


@pytest.mark.parametrize("many, programs", [(0, 0), (10**6, 1)])
def test_programs_are_freed_when_they_are_many(monkeypatch, many, programs):
  monkeypatch.setattr(compilation, "_MANY_MAPPINGS", many)
  double = jax.jit(lambda x: 2 * x)
  double(np.float32(1))
  compilation.free_programs_if_many()
  assert double._cache_size() == programs
