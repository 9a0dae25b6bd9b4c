"""Paths as users spell them, in the flags and fields of every command.

No shell expands the `~` of --flag=~/x. The commands run in the root of this
repository, where a path that is taken literally would be created.
"""

import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from sam_jax.config import files
from sam_jax.datasets.labels import read_labels
from sam_jax.runs import launch
from sam_jax.training import build, input_pipeline, loop
from tests import tiny
from tests.in_process import run_module, run_script
from tests.models.golden_models import GOLDEN
from tests.processes import REPOSITORY

NAME = "[1] ä b*"
SPELLED = f"~/{NAME}"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
  """Return the directory of a run of 4 steps."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, "model", tiny.create_model)
    patch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
    loop.train_and_evaluate(tiny.create_config(), workdir)
  return workdir


@pytest.fixture
def real(tmp_path, monkeypatch):
  """Return the directory that `SPELLED` is."""
  monkeypatch.setenv("HOME", str(tmp_path))
  directory = tmp_path / NAME
  directory.mkdir()
  before = set(REPOSITORY.iterdir())
  yield directory
  new = {path.name for path in set(REPOSITORY.iterdir()) - before}
  assert not [name for name in new if name.startswith(("~", "[", "gs:"))]


@pytest.fixture
def run(real, finished_run, monkeypatch):
  """Return the directory of a run below `SPELLED`, at `SPELLED`/run."""
  from sam_jax.analysis import trained_run
  from sam_jax.evaluation import data

  monkeypatch.setattr(build, "model", tiny.create_model)
  for module in (input_pipeline, trained_run, data):
    monkeypatch.setattr(module, "create_dataset", tiny.create_dataset)
  shutil.copytree(finished_run, real / "run")
  return real / "run"


def train(*arguments):
  """Run the command on the data and the network of `tests.tiny`."""
  cache = jax.config.jax_compilation_cache_dir
  try:
    run_script(
      *("train", "--config=configs/digits.py", "--config.model.name=cnn4"),
      *("--config.num_epochs=1", "--config.batch_size=16"),
      *("--config.augment.policy=none", "--config.sam.m=None", *arguments),
    )
  finally:
    jax.config.update("jax_compilation_cache_dir", cache)


def test_train_and_resume(run, real):
  arguments = (
    f"--workdir={SPELLED}/new",
    f"--config.compilation_cache_dir={SPELLED}/compiled",
    f"--config.pretrained={SPELLED}/run",
  )
  train(*arguments)
  assert (real / "compiled").is_dir()
  result = (real / "new/result.json").read_bytes()
  (real / "new/result.json").unlink()
  train(*arguments)  # from its last checkpoint
  assert (real / "new/result.json").read_bytes() == result
  names = {path.name for path in (real / "new").iterdir()}
  assert "damaged_checkpoints" not in names


def test_a_cache_that_cannot_be_written_is_named(run, real, caplog):
  train(f"--workdir={real}/new", "--config.compilation_cache_dir=/proc/cache")
  assert (real / "new/result.json").exists()
  (line,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
  flag = "--config.compilation_cache_dir=/proc/cache"
  assert line.startswith(f"{flag} can't be written: No such file or directory.")


def test_relabel_and_label_file(run, real):
  run_script("relabel", f"--workdir={SPELLED}/run", f"--output={SPELLED}/l.npy")
  labels = read_labels(f"{SPELLED}/l.npy", 64, 10)
  np.testing.assert_array_equal(labels, np.load(real / "l.npy"))


def test_evaluate(run, real):
  flags = f"--workdir={SPELLED}/run@4", "--export=stablehlo"
  run_script("evaluate", *flags, f"--output={SPELLED}/results")
  assert (real / "results/evaluation.json").exists()
  run_script("evaluate", *flags)
  evaluation = run / "evaluation"
  assert (evaluation / "digits_test_4/predictions.csv").exists()
  assert (evaluation / "export_4/network.stablehlo").exists()


def test_analyze(run, real):
  run_script(
    *("analyze", "sharpness", f"--workdir={SPELLED}/run@4"),
    *(f"--output={SPELLED}/pictures", "--num_examples=16"),
    *("--rho=0.1", "--m=8"),
  )
  (picture,) = (real / "pictures").iterdir()
  Image.open(picture).verify()
  assert (run / "analysis/sharpness.json").exists()


def test_report(run, real, capsys):
  run_script("report", f"--root={SPELLED}", f"--output={SPELLED}/report")
  assert f"Plot: {real}/report/learning_curves.png" in capsys.readouterr().out
  assert (real / "report/report.md").exists()


def test_sweep_and_config_file(real, monkeypatch):
  monkeypatch.setattr(launch, "train_all", lambda *_: [])
  shutil.copy(files.project_config("digits"), real / "mine.py")
  run_script(
    *("sweep", f"--config={SPELLED}/mine.py:sam", f"--root={SPELLED}/sweep"),
    "--grid=seed=0",
  )
  assert (real / "sweep/sweep.json").exists()


def test_convert(real):
  source = GOLDEN / "ckpt_tiny/checkpoint_0"
  shutil.copy(source, real / "checkpoint_0")
  run_script(
    *("convert", "--model=efficientnet_tiny"),
    *(f"--input={SPELLED}/checkpoint_0", f"--output={SPELLED}/a.msgpack"),
  )
  assert (real / "a.msgpack").exists()


def test_show_batch_and_data_dir(real, capsys):
  run_script(
    *("show_batch", "--config=configs/digits.py", "--count=4"),
    *(f"--output={SPELLED}/new/a.png", f"--config.dataset.data_dir={SPELLED}"),
  )
  assert f": {real}/new/a.png" in capsys.readouterr().out
  Image.open(real / "new/a.png").verify()
  assert (real / "digits").is_dir()
  run_module("sam_jax.datasets.prepare", "digits", f"--data_dir={SPELLED}")
  said = capsys.readouterr().out.splitlines()[-1]
  assert pathlib.Path(said.removeprefix("digits: ")).is_relative_to(real)


def test_reproduce(real, capsys):
  with pytest.raises(SystemExit):
    run_module("scripts.reproduce", "--document", f"--output={SPELLED}")
  error = capsys.readouterr().err
  assert error == f"error: --output={real} is a directory.\n"
