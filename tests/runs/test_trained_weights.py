"""Runs that start from the weights of another run."""

import errno
import functools
import itertools
import json
import shutil
import zipfile
from unittest import mock

import jax
import numpy as np
import pytest

from sam_jax.config.schema import ConfigError, validate_config
from sam_jax.pretrained.fitting import load_pretrained
from sam_jax.runs import distributed, trained_weights
from sam_jax.runs.checkpoints import Checkpoints, SavedCheckpoints
from sam_jax.runs.workdir import WorkdirLostError
from sam_jax.training import build, input_pipeline, loop
from sam_jax.training.start import initial_state
from sam_jax.training.step import create_state
from tests import tiny
from tests.bucket import ROOT


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """Return the workdir of a finished run of four steps, with averages."""
  workdir = tmp_path_factory.mktemp("source") / "a [1]"
  with pytest.MonkeyPatch.context() as patch:
    use_tiny_network(patch)
    loop.train_and_evaluate(make_config(**{"ema.decay": 0.5}), workdir)
  return workdir


@pytest.fixture
def run(source, tmp_path):
  """Return a copy of that workdir."""
  return shutil.copytree(source, tmp_path / "run [a]")


def use_tiny_network(patch):
  patch.setattr(build, "model", tiny.create_model)
  patch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)


def make_config(**fields):
  config = tiny.create_config()
  config.update_from_flattened_dict(fields)
  return config


@functools.cache
def parts():
  config = make_config(**{"ema.decay": 0.5})
  with pytest.MonkeyPatch.context() as patch:
    use_tiny_network(patch)
    spec = tiny.create_dataset(config).spec
    return spec, build.parts(config, spec, 4, jax.device_count())


def fresh_state(seed=0):
  spec, built = parts()
  return jax.device_get(create_state(built, spec.image_shape, seed))


def saved_state(workdir, step=4):
  checkpoints = Checkpoints(workdir / "checkpoints")
  state = checkpoints.restore(fresh_state(), step)
  checkpoints.close()
  return state


def contents(directory):
  return {
    path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
    for path in [directory, *directory.rglob("*")]
  }


def assert_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, dict(actual), dict(expected))


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/4"])
def test_run_starts_from_the_averages_of_another(
  run, below, tmp_path, monkeypatch, caplog
):
  use_tiny_network(monkeypatch)
  caplog.set_level("INFO")
  averages = saved_state(run).ema["params"]
  before = contents(run)
  config = make_config(pretrained=str(run / below), seed=1)
  pinned = trained_weights.pin(config, tmp_path / "b")
  spec, built = parts()
  checkpoints = Checkpoints(tmp_path / "none")
  fresh = create_state(built, spec.image_shape, pinned.seed)
  state = initial_state(pinned, fresh, checkpoints)
  checkpoints.close()
  assert_equal(state.params, averages)
  assert_equal(state.ema["params"], averages)
  assert state.step == 0
  reported = f"{run}/checkpoints/4 (step 4 of a run of cnn4 on digits, running"
  assert reported in caplog.text
  assert contents(run) == before


def test_parameters_of_a_run_without_averages(run, monkeypatch, tmp_path):
  use_tiny_network(monkeypatch)
  loop.train_and_evaluate(make_config(), tmp_path / "plain")
  found = trained_weights.read(str(tmp_path / "plain/checkpoints/4"))
  assert found.kind == "step 4 of a run of cnn4 on digits"
  expected = saved_state(run)  # averages change no parameter
  for layer in ("Dense_0", "Dense_1"):
    for name, value in expected.params[layer].items():
      np.testing.assert_allclose(found.params[f"{layer}/{name}"], value, 1e-3)


def test_averages_of_a_run_can_be_left_out(run, tmp_path):
  newest = trained_weights.read_newest(str(run), "--input", use_ema=False)
  assert newest.kind == "step 4 of a run of cnn4 on digits"
  assert newest.image_shape == (8, 8, 1)  # gray images
  expected = saved_state(run)
  for layer in ("Dense_0", "Dense_1"):
    for name, value in expected.params[layer].items():
      np.testing.assert_array_equal(newest.params[f"{layer}/{name}"], value)
  with pytest.raises(ConfigError, match=r"--input = '.*' is a directory with"):
    trained_weights.read_newest(str(tmp_path), "--input")
  with pytest.raises(ConfigError, match=r"^--input: https://a/b: https:// is"):
    trained_weights.read_newest("https://a/b", "--input")


def test_head_of_another_number_of_classes_is_new(run):
  found = trained_weights.read(str(run / "checkpoints/4"))
  params = dict(fresh_state(seed=2).params)
  params["Dense_0"] = {  # Flax names the outer layer first
    "kernel": np.ones((32, 3), np.float32),
    "bias": np.ones(3, np.float32),
  }
  loaded, report = load_pretrained(found, {"params": params})
  assert_equal(loaded["params"]["Dense_0"], params["Dense_0"])
  averages = saved_state(run).ema["params"]
  assert_equal(loaded["params"]["Dense_1"], averages["Dense_1"])
  assert "Dense_0/bias, Dense_0/kernel newly initialized for 3" in report
  assert "classes instead of 10" in report


def test_other_architecture_is_one_line(run):
  found = trained_weights.read(str(run / "checkpoints/4"))
  deep = {"kernel": np.ones((48, 10)), "bias": np.ones(10)}
  params = {f"Dense_{i}": deep for i in range(4)}
  with pytest.raises(ValueError) as error:
    load_pretrained(found, {"params": params})
  message = str(error.value)
  assert "\n" not in message
  assert (
    "(step 4 of a run of cnn4 on digits, running averages) lacks" in message
  )
  assert "('Dense_2/bias', 'Dense_2/kernel', 'Dense_3/bias', ...)" in message
  assert "'Dense_0/kernel' has shape (32, 10), not (48, 10)" in message


def test_source_that_trains_on(run, tmp_path, monkeypatch):
  """A run keeps its start; a later run starts from the newer checkpoint."""
  use_tiny_network(monkeypatch)
  config = make_config(pretrained=str(run))
  loop.train_and_evaluate(config, tmp_path / "b")
  written = json.loads((tmp_path / "b/config.json").read_text())
  assert written["pretrained"] == f"{run}/checkpoints/4"
  shutil.copytree(run / "checkpoints/4", run / "checkpoints/8")
  (run / "checkpoints/9.orbax-checkpoint-tmp").mkdir()
  assert loop.train_and_evaluate(config, tmp_path / "b") is None  # finished
  for workdir, step in (("b", 4), ("c", 8)):
    pinned = trained_weights.pin(config, tmp_path / workdir)
    assert pinned.pretrained == f"{run}/checkpoints/{step}"
  shutil.rmtree(run)  # no longer needed
  assert loop.train_and_evaluate(config, tmp_path / "b") is None


def test_processes_start_from_the_same_checkpoint(tmp_path, monkeypatch):
  """Process 1 would find a newer one: the source saves in between."""
  store = {}
  monkeypatch.setattr(
    distributed,
    "_store",
    lambda: mock.Mock(
      key_value_set=store.__setitem__,
      blocking_key_value_get=lambda name, timeout_in_ms: store[name],
    ),
  )
  monkeypatch.setattr(distributed, "_numbers", itertools.repeat(0))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  config = make_config(pretrained=str(tmp_path / "a"))
  for process in range(2):
    (tmp_path / f"a/checkpoints/{4 + process}/state").mkdir(parents=True)
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    pinned = trained_weights.pin(config, tmp_path / "b")
    assert pinned.pretrained == f"{tmp_path}/a/checkpoints/4"


def test_source_in_a_bucket(run, bucket, tmp_path, monkeypatch):
  use_tiny_network(monkeypatch)
  for file in run.rglob("*"):
    if file.is_file():
      bucket.write(f"runs/a/{file.relative_to(run)}", file.read_bytes())
  before = dict(bucket.objects)
  config = make_config(pretrained=f"{ROOT}/runs/a")
  pinned = trained_weights.pin(config, tmp_path / "b")
  assert pinned.pretrained == f"{ROOT}/runs/a/checkpoints/4"
  found = trained_weights.read(pinned.pretrained)
  averages = saved_state(run).ema["params"]["Dense_0"]
  np.testing.assert_array_equal(
    found.params["Dense_0/kernel"], averages["kernel"]
  )
  assert bucket.objects == before
  bucket.fail(403)
  with pytest.raises(ConfigError, match=r"config\.pretrained.*no permission"):
    loop.train_and_evaluate(config, tmp_path / "b")


def test_missing_weights_are_named(tmp_path):
  config = make_config(pretrained="/no/file")
  with pytest.raises(ConfigError, match=r"pretrained = '/no/file'.*no such"):
    trained_weights.check(config, tmp_path / "b")
  validate_config(config, num_devices=8)  # it may have done its work


def test_weights_of_another_network_are_refused_before_data_are_read(
  run, tmp_path
):
  config = make_config(pretrained=str(run))
  config.dataset.data_dir = "/no/data"
  with pytest.raises(
    ConfigError, match=r"config\.pretrained: .* lacks \d+ of the network's"
  ):
    loop.train_and_evaluate(config, tmp_path / "b")  # a cnn4
  assert not (tmp_path / "b").exists()


def test_pickles_are_refused_before_data_are_read(tmp_path):
  with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
    archive.writestr("archive/data.pkl", b"never opened")
  (tmp_path / "old.pth").write_bytes(b"\x80\x02 of PyTorch")
  for file in ("new.pth", "old.pth"):
    config = make_config(pretrained=str(tmp_path / file))
    config.dataset.data_dir = "/no/data"
    with pytest.raises(
      ConfigError, match=rf"pretrained: /.*{file} is .*Pickle"
    ):
      loop.train_and_evaluate(config, tmp_path / "b")
  assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
  ("file", "path"),
  [("model.safetensors", ""), ("a.ckpt.index", ""), ("a.ckpt.index", "a.ckpt")],
)
def test_paths_of_other_libraries_stay(file, path, tmp_path):
  (tmp_path / "hub").mkdir()
  (tmp_path / "hub" / file).touch()
  config = make_config(pretrained=str(tmp_path / "hub" / path))
  trained_weights.check(config, tmp_path / "b")
  pinned = trained_weights.pin(config, tmp_path / "b")
  assert pinned.pretrained == config.pretrained


def test_directories_that_hold_no_weights(tmp_path):
  config = make_config(pretrained=str(tmp_path))
  with pytest.raises(ConfigError, match="is a directory without checkpoints"):
    trained_weights.pin(config, tmp_path / "b")
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ConfigError, match="is a run without checkpoints"):
    loop.train_and_evaluate(config, tmp_path / "b")
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("file", ["checksum/metadata", "state/d/*"])
def test_damaged_checkpoint_is_named(run, file, tmp_path, monkeypatch):
  use_tiny_network(monkeypatch)
  for path in (run / "checkpoints/4").glob(file):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
  config = make_config(pretrained=str(run))
  with pytest.raises(ConfigError) as error:
    loop.train_and_evaluate(config, tmp_path / "b")
  message = str(error.value)
  start = f"config.pretrained: checkpoint {run}/checkpoints/4 is damaged: "
  assert message.startswith(start)
  assert message.endswith("Name another one of that run.")
  assert "\n" not in message


DENIED = PermissionError(errno.EACCES, "Permission denied", "/a/b")
FAILING = OSError(errno.EIO, "Input/output error", "/a/b")


@pytest.mark.parametrize(
  ("error", "kind"),
  [
    (DENIED, ConfigError),
    (ValueError('PERMISSION_DENIED: reading "/a/b": no access'), ConfigError),
    (ValueError("UNKNOWN: HTTP response code: 403"), ConfigError),
    (FAILING, WorkdirLostError),
    (ValueError('UNAVAILABLE: reading "/a/b": no answer'), WorkdirLostError),
  ],
)
def test_only_storage_that_may_recover_is_no_mistake(
  error, kind, tmp_path, monkeypatch
):
  """A mistake ends the program with exit code 2, failing storage with 1."""

  def fail(*_, **__):
    raise error

  (tmp_path / "checkpoints/4/state").mkdir(parents=True)
  monkeypatch.setattr(SavedCheckpoints, "_read", fail)
  with pytest.raises(kind) as raised:
    trained_weights.read(str(tmp_path / "checkpoints/4"))
  assert type(raised.value) is kind
  assert "can't be read: " in str(raised.value)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  ("error", "kind"), [(DENIED, ConfigError), (FAILING, WorkdirLostError)]
)
def test_files_and_directories_fail_like_checkpoints(
  error, kind, tmp_path, monkeypatch
):
  def fail(*_, **__):
    raise error

  config = make_config(pretrained=str(tmp_path))
  line = r"^config\.pretrained = '/.*' can't be read: .*\.$"
  monkeypatch.setattr(SavedCheckpoints, "steps", fail)
  with pytest.raises(kind, match=line):
    trained_weights.pin(config, tmp_path / "b")
  monkeypatch.setattr(trained_weights.formats, "read_checkpoint", fail)
  with pytest.raises(kind, match=line):
    trained_weights.read(str(tmp_path / "file"))
