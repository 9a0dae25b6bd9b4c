"""Runs that can't be loaded, and fields that older runs lack."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from sam_jax.analysis import trained_run
from sam_jax.analysis.objective import Objective
from sam_jax.analysis.sharpness import m_sharpness
from sam_jax.analysis.trained_run import TrainedRun, load_run
from sam_jax.config.schema import ConfigError
from sam_jax.models.layers import LayerSettings
from sam_jax.runs import files, workdir
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.training import build, parallel
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


class Normalized(nn.Module):
  """A network with batch statistics."""

  settings: LayerSettings = LayerSettings()

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x[:, 0, 0]))
    return nn.Dense(10)(x)


def test_runs_of_one_network_share_programs(tmp_path, monkeypatch):
  programs, map_over_devices = [], parallel.map_over_devices

  def recorded(fn, **axes):
    mapped = map_over_devices(fn, **axes)

    def lower(*args):
      lowered = mapped.lower(*args)
      programs[-1].append(lowered.as_text())
      return lowered

    def call(*args):
      lower(*args)
      return mapped(*args)

    call.lower = lower
    return call

  monkeypatch.setattr(parallel, "map_over_devices", recorded)
  model, random = Normalized(), np.random.default_rng(0)
  images = np.zeros((8, 8, 8, 1), np.uint8)
  examples = {"image": images, "label": np.zeros(8, np.int32)}
  values = []
  for _ in range(2):
    variables = jax.tree.map(
      lambda x: random.uniform(size=x.shape).astype(np.float32),
      model.init(jax.random.key(0), images, train=False),
    )
    config = tiny.create_config()
    spec = build.dataset_spec(config)
    run = TrainedRun(tmp_path, config, 1, spec, model, variables)
    programs.append([])
    loss = Objective(run.example_losses, examples, 8).value(run.params)
    values.append(float(loss))
    m_sharpness(run.example_losses, run.params, examples, 4, 0.1)
  assert len(programs[0]) == 2
  assert programs[0] == programs[1]
  assert values[0] != values[1]
