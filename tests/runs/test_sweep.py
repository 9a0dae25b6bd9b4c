"""Sweeps: the runs that they plan and record."""

import json
import runpy
import sys

import pytest
from absl import flags
from etils import epath

from sam_jax.config.schema import ConfigError
from sam_jax.runs import launch, sweep
from tests.bucket import ROOT
from tests.in_process import own_flags
from tests.processes import REPOSITORY

DIGITS = str(REPOSITORY / "configs/digits.py")


def plan(root, *grid, config=DIGITS, extra=()):
  return sweep.plan(config, epath.Path(root), grid, extra)


def test_grid_makes_all_combinations(tmp_path):
  runs = plan(
    tmp_path,
    *("sam.rho=0.02,0.1", "seed=0,1,2"),
    config=f"{DIGITS}:sam",
    extra=["--config.num_epochs=2", "--process_id=0"],
  )
  names = [f"sam.rho={rho},seed={s}" for rho in (0.02, 0.1) for s in (0, 1, 2)]
  assert [run.name for run in runs] == names
  last = runs[-1]
  assert last.workdir == tmp_path / names[-1]
  assert last.log == tmp_path / names[-1] / "log.txt"
  assert last.command == [
    *(sys.executable, "-m", "sam_jax.train"),
    f"--workdir={tmp_path / names[-1]}",
    f"--config={DIGITS}:sam",
    *("--config.sam.rho=0.1", "--config.seed=2"),
    *("--config.num_epochs=2", "--process_id=0"),
  ]
  fields = last.config.sam.rho, last.config.seed, last.config.num_epochs
  assert fields == (0.1, 2, 2)


def test_a_point_has_no_options_of_other_schedules(tmp_path):
  cosine, step = plan(
    tmp_path,
    "optimizer.schedule=cosine,step",
    extra=["--config.optimizer.step_at=(0.5,0.75)"],
  )
  assert cosine.command[-1] == "--config.optimizer.step_at=()"
  assert cosine.config.optimizer.step_at == ()
  assert step.config.optimizer.step_at == (0.5, 0.75)
  # The sweep asks for these.
  with pytest.raises(ConfigError, match=r"0\.5 has no effect with"):
    plan(
      tmp_path,
      "optimizer.schedule=constant,cosine",
      "optimizer.schedule_end=0.5,0.7",
    )
  with pytest.raises(ConfigError, match=r"step_factor = 0\.2 has no effect"):
    plan(tmp_path, "seed=0,1", extra=["--config.optimizer.step_factor=0.2"])


def test_tuples_are_single_values(tmp_path):
  runs = plan(tmp_path, "keep_checkpoints_at_epochs=(1,2), (3,)", "seed=0")
  assert [run.name for run in runs] == [
    "keep_checkpoints_at_epochs=(1,2),seed=0",
    "keep_checkpoints_at_epochs=(3,),seed=0",
  ]
  kept = [tuple(run.config.keep_checkpoints_at_epochs) for run in runs]
  assert kept == [(1, 2), (3,)]


@pytest.mark.parametrize("values", ["(1,2", "1),(2", "1,,2", ""])
def test_wrong_values_of_a_grid_are_refused(values):
  axis = f"keep_checkpoints_at_epochs={values}"
  with pytest.raises(ConfigError) as error:
    sweep.parse_grid([axis])
  assert str(error.value).startswith(f"--grid={axis} must look like field=")


def test_function_of_a_config_lists_the_runs(tmp_path):
  words = "wrn28_10,200_epochs,cifar10,basic,sam"
  file = str(REPOSITORY / "configs/cifar.py")
  runs = plan(tmp_path, config=f"{file}:{words}")
  assert [run.name for run in runs] == [f"{words},seed={s}" for s in range(5)]
  assert [run.config.seed for run in runs] == list(range(5))
  assert all(f"--config={file}:{words}" in run.command for run in runs)


def test_run_without_points_is_called_run(tmp_path):
  (tmp_path / "config.py").write_text(
    "from sam_jax.config.schema import default_config as get_config\n"
    "def sweep(variant):\n  assert variant == ''\n  yield {}\n"
  )
  (run,) = plan(tmp_path, config=str(tmp_path / "config.py"))
  assert run.name == "run"
  assert run.config.sam.rho == 0.05


def test_flags_of_runs_are_those_of_training(tmp_path):
  with own_flags():
    before = set(flags.FLAGS)
    runpy.run_module("sam_jax.train")
    names = set(flags.FLAGS) - before - {"help_config"}
  own = {*sweep._FLAGS_OF_SWEEPS, *sweep.FLAGS_OF_PROCESSES}
  assert names == own
  extra = ["--num_processes=1", "--verbosity=1", "--noconfig.model.remat"]
  (run,) = plan(tmp_path, "seed=0", extra=extra)
  assert run.command[-3:] == extra


@pytest.mark.parametrize(
  ("name", "shown"),
  [("..", r"'\.\.', of 2 bytes"), ("x" * 256, "'x{60}'..., of 256 bytes")],
)
def test_names_that_no_directory_can_have_are_refused(tmp_path, name, shown):
  (tmp_path / "config.py").write_text(
    "from sam_jax.config.schema import default_config\n"
    "def get_config(variant):\n  return default_config()\n"
    f"def sweep(variant):\n  yield {{'variant': '{name}'}}\n"
  )
  with pytest.raises(ConfigError, match=f"called {shown}. Choose other"):
    plan(tmp_path, config=str(tmp_path / "config.py"))


def test_names_of_planned_runs_are_kept(tmp_path):
  root = tmp_path / "runs"
  sweep.record_names(root, ["seed=2", "seed=1"])
  sweep.record_names(root, ["seed=0", "seed=2"])  # another shard or grid
  text = (root / "sweep.json").read_text()
  assert json.loads(text) == {"runs": ["seed=0", "seed=1", "seed=2"]}
  assert sweep.read_names(root) == ["seed=0", "seed=1", "seed=2"]
  assert [file.name for file in root.iterdir()] == ["sweep.json"]
  (root / "sweep.json").write_text(text[:-9])
  with pytest.raises(ConfigError, match=r"sweep\.json is damaged"):
    sweep.record_names(root, ["seed=0"])
  with pytest.raises(ConfigError, match=r"sweep\.json is damaged"):
    sweep.read_names(root)


def test_remote_runs_have_local_logs(bucket):
  root = epath.Path(f"{ROOT}/a")
  (run,) = plan(root, "seed=0")
  sweep.record_names(root, [run.name])
  assert bucket.names() == ["a/sweep.json"]
  assert f"--workdir={ROOT}/a/seed=0" in run.command
  assert run.log.parts[-4:] == ("bucket", "a", "seed=0", "log.txt")
  assert "gs:" not in run.log.parts
  assert not launch.conflict(run)
  assert launch.find_result(run) == (None, "")
