"""Runs that can't be loaded, and fields that older runs lack."""

import json

import pytest

from sam_jax.analysis import trained_run
from sam_jax.analysis.trained_run import load_run
from sam_jax.config.schema import ConfigError
from sam_jax.runs import files, workdir
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.training import build
from sam_jax.training.step import create_state
from tests import tiny
from tests.runs.test_checkpoints import listing


@pytest.mark.parametrize(
  ("recorded", "message"),
  [
    ({}, "without checkpoints"),  # an older version may lack fields
    ({"sam": {"roh": 1}}, r"config\.json has the field sam\.roh = 1, .*newer"),
    ({"batch_size": "x"}, r"config\.json: batch_size = 'x' must be an integer"),
  ],
)
def test_runs_that_cannot_be_loaded(tmp_path, recorded, message):
  with pytest.raises(ConfigError, match="holds no run"):
    load_run(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(recorded))
  with pytest.raises(ConfigError, match=message):
    load_run(tmp_path)


def test_config_that_cannot_be_read_is_one_line(tmp_path):
  (tmp_path / "config.json").mkdir()
  with pytest.raises(workdir.WorkdirLostError, match="Is a directory"):
    load_run(tmp_path)


def test_loading_a_run_that_trains_changes_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(build, "model", tiny.create_model)
  monkeypatch.setattr(trained_run, "create_dataset", tiny.create_dataset)
  config = tiny.create_config()
  spec = tiny.create_dataset(config).spec
  state = create_state(build.parts(config, spec, 4, 1), spec.image_shape, 0)
  checkpoints = Checkpoints(tmp_path / "checkpoints")
  for step in (4, 8):
    checkpoints.save(state.replace(step=state.step + step))
  checkpoints.close()
  files.write_json(tmp_path / "config.json", workdir.to_dict(config))
  (tmp_path / "checkpoints/12.orbax-checkpoint-tmp/state").mkdir(parents=True)

  before = listing(tmp_path)
  assert load_run(tmp_path).step == 8
  assert load_run(tmp_path, step=4).step == 4
  with pytest.raises(ConfigError, match=r"of step 12\. Kept: 4, 8\."):
    load_run(tmp_path, step=12)
  assert listing(tmp_path) == before

  config.model.name = "no_such_module:Network"
  files.write_json(tmp_path / "config.json", workdir.to_dict(config))
  with pytest.raises(ConfigError, match=r"config\.model\.name = .*PYTHONPATH"):
    load_run(tmp_path)
