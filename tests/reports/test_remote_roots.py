"""Reports and sweeps of runs in a bucket."""

import os

import pytest
from etils.epath import gpath
from PIL import Image

from sam_jax.runs import launch
from tests.in_process import run_script
from tests.reports.written_runs import write_run
from tests.runs.test_remote_paths import BUCKET, LocalBucket


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """Return the local directory that stands for gs://bucket."""
  local = tmp_path / "bucket"
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", LocalBucket(local))
  return local


def test_report(bucket, capsys):
  write_run(bucket / "runs/whole", [0.2])
  write_run(bucket / "runs/a/late", [0.5, 0.4], is_finished=False)
  (bucket / "runs/whole/checkpoints").mkdir()
  (bucket / "runs/a/sweep.json").write_text('{"runs": ["late", "later"]}')
  root = f"{BUCKET}/runs"
  run_script("report", f"--root={root}", f"--output={BUCKET}/report")
  said, error = capsys.readouterr()
  assert error == ""
  assert " 20.00 " in said.splitlines()[2]
  assert "1 of 3 runs are finished. Missing or damaged:" in said
  assert f"- {root}/a/late: not finished, logged up to step 2000" in said
  assert f"- {root}/a/later: not started" in said
  assert said.startswith((bucket / "report/report.md").read_text())
  Image.open(bucket / "report/learning_curves.png").verify()


def test_errors_of_the_bucket_are_named(bucket, capsys, monkeypatch):
  write_run(bucket / "runs/whole", [0.2])
  write_run(bucket / "runs/locked", [0.3])
  read = LocalBucket.__getattr__

  def deny(self, name):
    def operation(*words, **options):
      if name == "open" and str(words[0]).endswith("locked/result.json"):
        raise RuntimeError("Forbidden:\n you lack storage.objects.get")
      return read(self, name)(*words, **options)

    return operation

  monkeypatch.setattr(LocalBucket, "__getattr__", deny)
  run_script("report", f"--root={BUCKET}/runs")
  said = capsys.readouterr().out
  assert " 20.00 " in said.splitlines()[2]
  problem = "result.json can't be read: Forbidden: you lack storage.objects.get"
  assert f"- {BUCKET}/runs/locked: damaged: {problem}" in said


def test_no_such_root(bucket, capsys):
  with pytest.raises(SystemExit) as exit_info:
    run_script("report", f"--root={BUCKET}/runs")
  assert exit_info.value.code == 2
  error = capsys.readouterr().err
  assert error == f"error: --root={BUCKET}/runs is not a directory.\n"


def test_sweep_keeps_its_plan_in_the_bucket(bucket, monkeypatch):
  seen = []
  monkeypatch.setattr(
    launch, "train_all", lambda runs, *_: seen.extend(runs) or []
  )
  run_script(
    *("sweep", "--config=configs/digits.py:sam", f"--root={BUCKET}/runs"),
    "--grid=seed=0,1",
  )
  assert (bucket / "runs/sweep.json").exists()
  workdirs = [os.fspath(run.workdir) for run in seen]
  assert workdirs == [f"{BUCKET}/runs/seed={seed}" for seed in (0, 1)]
