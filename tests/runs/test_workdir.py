"""A workdir belongs to one config, and to one process at a time."""

import errno
import json
import os
import re
import shutil

import pytest

from sam_jax.config.schema import ConfigError, default_config, flatten
from sam_jax.runs import workdir


def claim(path, config=None):
  """Claim a workdir and release it."""
  with workdir.claim(path, config or default_config()):
    pass


def test_workdir_belongs_to_one_config(tmp_path):
  config = default_config()
  config.seed = 2
  claim(tmp_path / "run", config)
  config.seed = 0
  claim(tmp_path / "run", config)  # the other run never began
  (tmp_path / "run/checkpoints/11").mkdir(parents=True)
  claim(tmp_path / "run", config)  # the same run resumes
  config.dataset.data_dir = "/elsewhere"  # changes no result
  config.profile = "3:4"
  claim(tmp_path / "run", config)
  config.sam.rho, config.seed = 0.3, 1
  with pytest.raises(ConfigError) as error:
    claim(tmp_path / "run", config)
  assert "sam.rho was 0.05 and is now 0.3" in str(error.value)
  assert "seed was 0 and is now 1" in str(error.value)


def test_workdir_that_is_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match="can't be written: Not a directory"):
    claim(tmp_path / "file" / "run")


@pytest.mark.parametrize("text", ["[]", "{"])
def test_damaged_config_gives_its_path_and_a_remedy(text, tmp_path):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ConfigError, match=r"config\.json is not .*Restore it"):
    claim(tmp_path)


def test_lost_config_of_a_run_is_named(tmp_path):
  claim(tmp_path)
  (tmp_path / "metrics.jsonl").write_text("{}")
  (tmp_path / "config.json").unlink()
  with pytest.raises(
    ConfigError, match=r"a run without its config\.json\. Rest"
  ):
    claim(tmp_path)
  assert not (tmp_path / "config.json").exists()


def test_checkpoints_that_are_a_file_are_refused(tmp_path):
  (tmp_path / "checkpoints").write_text("")
  with pytest.raises(ConfigError, match="checkpoints must be a directory"):
    claim(tmp_path)


def test_run_of_an_older_version_resumes_with_defaults(tmp_path):
  claim(tmp_path)
  (tmp_path / "checkpoints/11").mkdir(parents=True)
  recorded = json.loads((tmp_path / "config.json").read_text())
  del recorded["bootstrap"], recorded["sam"]["second_order"]
  (tmp_path / "config.json").write_text(json.dumps(recorded))
  claim(tmp_path)

  (tmp_path / "config.json").write_text(json.dumps(recorded))
  config = default_config()
  config.sam.second_order = True
  with pytest.raises(ConfigError, match="second_order was False and is now T"):
    claim(tmp_path, config)


def test_run_of_a_newer_version_is_refused(tmp_path):
  claim(tmp_path)
  recorded = json.loads((tmp_path / "config.json").read_text())
  recorded["sam"]["future"] = 1
  (tmp_path / "config.json").write_text(json.dumps(recorded))
  claim(tmp_path)  # it has not begun

  (tmp_path / "checkpoints/11").mkdir(parents=True)
  (tmp_path / "config.json").write_text(json.dumps(recorded))
  message = r"config\.json has the field sam\.future = 1, .* a newer version"
  with pytest.raises(ConfigError, match=message):
    claim(tmp_path)


def test_error_for_a_workdir_in_use_names_the_process(tmp_path):
  with workdir.claim(tmp_path, default_config()):
    user = f"in use by process {os.getpid()} on "
    with pytest.raises(ConfigError, match=re.escape(user)):
      claim(tmp_path)
  claim(tmp_path)


def test_removed_workdir_gives_one_line_with_a_remedy(tmp_path):
  path = tmp_path / "run"
  message = r"can no longer be written: .*metrics\.jsonl.*the same command"
  with (
    pytest.raises(workdir.WorkdirLostError, match=message),
    workdir.claim(path, default_config()),
  ):
    shutil.rmtree(path)
    (path / "metrics.jsonl").open("a")


def test_full_disk_gives_one_line_and_other_errors_pass(tmp_path):
  config, lost = default_config(), workdir.WorkdirLostError
  with (
    pytest.raises(lost, match="No space left"),
    workdir.claim(tmp_path, config),
  ):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  with pytest.raises(FileNotFoundError), workdir.claim(tmp_path, config):
    os.stat("/elsewhere/file")
  with (
    pytest.raises(OSError, match="error: '/data/a'") as error,
    workdir.claim(tmp_path, config),
  ):
    raise OSError(errno.EIO, os.strerror(errno.EIO), "/data/a")
  assert not isinstance(error.value, workdir.WorkdirLostError)


def test_fields_that_decide_a_result():
  config = workdir.to_dict(default_config())
  fields = workdir.deciding_fields(config)
  assert fields["sam.rho"] == 0.05
  assert {"seed", "model.name", "optimizer.learning_rate"} <= fields.keys()
  free = {"profile", "dataset.data_dir", "compilation_cache_dir", "analysis.m"}
  assert free < dict(flatten(config)).keys()
  assert not free & fields.keys()
