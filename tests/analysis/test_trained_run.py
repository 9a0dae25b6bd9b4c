"""Runs that can't be loaded, and fields that older runs lack."""

import pytest

from sam_jax.analysis.trained_run import load_run
from sam_jax.config.schema import ConfigError


def test_missing_runs_and_checkpoints_are_reported(tmp_path):
  with pytest.raises(ConfigError, match="holds no run"):
    load_run(tmp_path)
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ConfigError, match="without checkpoints"):
    load_run(tmp_path)
  # The config above lacked all fields, as that of an older version may.
  (tmp_path / "config.json").write_text('{"sam": {"roh": 1.0}}')
  with pytest.raises(ConfigError, match=r"Did you mean config\.sam\.rho"):
    load_run(tmp_path)
