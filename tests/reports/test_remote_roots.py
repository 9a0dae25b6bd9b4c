"""Reports and sweeps of runs in a bucket."""

import io
import logging
import os

import pytest
from PIL import Image

from sam_jax.config import cli
from sam_jax.config.schema import ConfigError
from sam_jax.runs import launch
from tests.bucket import MESSAGES, ROOT
from tests.in_process import run_script
from tests.reports.written_runs import write_run


def test_report(bucket, tmp_path, capsys, caplog):
  caplog.set_level(logging.INFO)
  write_run(tmp_path / "runs/whole", [0.2])
  write_run(tmp_path / "runs/a/late", [0.5, 0.4], is_finished=False)
  bucket.upload(tmp_path / "runs", "runs")
  bucket.write("runs/whole/checkpoints/1/a", b"")
  bucket.write("runs/a/sweep.json", b'{"runs": ["late", "later"]}')
  root = f"{ROOT}/runs"
  run_script("report", f"--root={root}", f"--output={ROOT}/report")
  said, error = capsys.readouterr()
  assert error == "" and not caplog.records
  assert " 20.00 " in said.splitlines()[2]
  assert "1 of 3 runs is finished. Missing or damaged:" in said
  assert f"- {root}/a/late: not finished, logged up to step 2000" in said
  assert f"- {root}/a/later: not started" in said
  assert said.startswith(bucket.read("report/report.md").decode())
  Image.open(io.BytesIO(bucket.read("report/learning_curves.png"))).verify()


def test_errors_of_the_bucket_are_named(bucket, tmp_path, capsys):
  write_run(tmp_path / "whole", [0.2])
  write_run(tmp_path / "locked", [0.3])
  bucket.upload(tmp_path, "runs")
  bucket.fail(403, path="locked/result")
  run_script("report", f"--root={ROOT}/runs")
  said = capsys.readouterr().out
  assert " 20.00 " in said.splitlines()[2]
  problem = "result.json can't be read: Forbidden: "
  assert f"- {ROOT}/runs/locked: damaged: {problem}" in said
  assert MESSAGES[403] in said


def test_no_such_root(bucket, capsys):
  with pytest.raises(SystemExit) as exit_info:
    run_script("report", f"--root={ROOT}/runs")
  assert exit_info.value.code == 2
  error = capsys.readouterr().err
  assert error == f"error: --root={ROOT}/runs is not a directory.\n"


def test_outputs_in_the_bucket(bucket):
  assert os.fspath(cli.make_file("output", f"{ROOT}/a.npy")) == f"{ROOT}/a.npy"
  assert os.fspath(cli.make_directory("output", f"{ROOT}/b")) == f"{ROOT}/b"
  bucket.write("b/c", b"")
  with pytest.raises(SystemExit):
    cli.make_file("output", f"{ROOT}/b")
  with pytest.raises(ConfigError, match=r"--output=gs://other.*no bucket"):
    cli.make_file("output", "gs://other/a.npy")


def test_sweep_keeps_its_plan_in_the_bucket(bucket, monkeypatch):
  seen = []
  monkeypatch.setattr(
    launch, "train_all", lambda runs, *_: seen.extend(runs) or []
  )
  run_script(
    *("sweep", "--config=configs/digits.py:sam", f"--root={ROOT}/runs"),
    "--grid=seed=0,1",
  )
  assert bucket.names() == ["runs/sweep.json"]
  workdirs = [os.fspath(run.workdir) for run in seen]
  assert workdirs == [f"{ROOT}/runs/seed={seed}" for seed in (0, 1)]
