"""`python -m sam_jax.report`: its output, files and exit codes."""

import subprocess
import sys

import pytest
from PIL import Image

from sam_jax.analysis.hook import AnalysisHook
from sam_jax.training import build, input_pipeline, loop
from tests import processes, tiny
from tests.in_process import run_script
from tests.processes import REPOSITORY
from tests.reports.written_runs import write_run


@pytest.fixture
def report(capsys):
  """Run the command in this process; return its exit code and output."""

  def run(*arguments):
    code = 0
    try:
      run_script("report", *map(str, arguments))
    except SystemExit as end:
      code = end.code
    return code, *capsys.readouterr()

  return run


def test_table_and_plots_are_written(tmp_path, report):
  for noise in (0.0, 0.4):
    for m in (16, 64):
      for rho in (0.0, 0.1, 0.2):
        write_run(
          tmp_path / f"runs/{noise}{m}{rho}",
          [0.5, 0.1 + noise - rho / 2],
          dataset__label_noise__rate=noise,
          sam__m=m,
          sam__rho=rho,
        )
  output = tmp_path / "report"
  code, said, error = report(f"--root={tmp_path}/runs", f"--output={output}")
  assert (code, error) == (0, "")
  text = (output / "report.md").read_text()
  assert said.startswith(text)
  header, _, *rows = text[: text.index("\n\n")].splitlines()
  assert header.startswith("| dataset.label_noise.rate | sam.rho | sam.m |")
  cells = [[cell.strip() for cell in row.split("|")[1:6]] for row in rows]
  assert cells == [
    [
      f"{noise:g}",
      f"{rho:g}",
      str(m),
      "1",
      f"{10 + 100 * noise - 50 * rho:.2f}",
    ]
    for noise in (0, 0.4)
    for rho in (0, 0.1, 0.2)
    for m in (16, 64)
  ]
  pictures = [
    "learning_curves_1.png",
    "learning_curves_2.png",
    "error_against_rho.png",
    "error_against_m.png",
    "error_against_noise.png",
    "error_reduction.png",
  ]
  listed = said.removeprefix(text).splitlines()
  assert listed == [f"Plot: {output}/{name}" for name in pictures]
  for name in pictures:
    Image.open(output / name).verify()


def test_quickstart_compares_sgd_and_sam(tmp_path, report):
  write_run(tmp_path / "sgd", [0.4, 0.2], sam__rho=0.0)
  write_run(tmp_path / "sam", [0.3, 0.05], sam__rho=0.5)
  code, said, _ = report(f"--root={tmp_path}", f"--output={tmp_path}")
  assert code == 0
  header, _, sgd, sam = said.splitlines()[:4]
  columns = [column.strip() for column in header.split("|")]
  for title, cells in {
    "last error (%)": ("20.00", "5.00"),
    "train error (%)": ("30.00", "15.00"),
    "reduction (%)": ("", "75.0"),
  }.items():
    at = columns.index(title)
    assert tuple(row.split("|")[at].strip() for row in (sgd, sam)) == cells
  assert f"Plot: {tmp_path}/learning_curves.png" in said
  # Again, with the report among the runs.
  assert report(f"--root={tmp_path}", f"--output={tmp_path}")[1] == said


def test_a_run_that_was_trained(tmp_path, report, monkeypatch):
  monkeypatch.setattr(build, "model", tiny.create_model)
  monkeypatch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
  config = tiny.create_config()
  config.eval_on_train = True
  config.analysis.every_epochs, config.analysis.num_examples = 1, 64
  config.analysis.lanczos_steps = 2
  result = loop.train_and_evaluate(config, tmp_path / "run", [AnalysisHook])
  logged = {}
  for line in processes.read_metrics(tmp_path / "run"):
    logged.update(line)
  code, said, _ = report(f"--root={tmp_path}")
  assert code == 0
  titles, _, cells = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in said.splitlines()[:3]
  ]
  assert dict(zip(titles, cells, strict=True)) == {
    "seeds": "1",
    "last error (%)": f"{100 * result['error_rate']:.2f}",
    "best error (%)": f"{100 * result['error_rate']:.2f}",
    "train error (%)": f"{100 * logged['train/error_rate']:.2f}",
    "clean train error (%)": f"{100 * logged['clean_train/error_rate']:.2f}",
    "sharpness": f"{logged['analysis/sharpness']:.2f}",
    "m-sharpness": f"{logged['analysis/m_sharpness']:.2f}",
    "lambda max": f"{logged['analysis/lambda_max']:.2f}",
  }


def test_damaged_runs_are_named_and_the_others_reported(tmp_path, report):
  write_run(tmp_path / "whole", [0.2])
  for file in ("config.json", "metrics.jsonl", "result.json"):
    run = tmp_path / f"bad_{file}"
    write_run(run, [0.3])
    (run / file).write_bytes(b"\x80\xff{")
  (tmp_path / "sweep.json").write_bytes(b"\xff")
  output = tmp_path / "report"
  code, said, error = report(f"--root={tmp_path}", f"--output={output}")
  assert (code, error) == (0, "")
  assert "2 of 4 runs are finished. Missing or damaged:" in said
  for line in (
    "bad_config.json: damaged: config.json is not a JSON object",
    "bad_result.json: damaged: result.json is not a JSON object",
    "bad_metrics.jsonl: finished; metrics.jsonl: 1 of 1 line is damaged",
    "sweep.json is damaged",
  ):
    assert f"{tmp_path}/{line}" in said
  assert "learning_curves.png" in said


def test_no_finished_run_exits_with_1(tmp_path, report):
  code, said, _ = report(f"--root={tmp_path}")
  assert (code, said) == (1, f"There are no runs in {tmp_path}.\n")
  write_run(tmp_path / "run", [0.5], is_finished=False)
  code, said, _ = report(f"--root={tmp_path}")
  assert code == 1
  assert said.startswith("0 of 1 run is finished.")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--root is missing, see --help."),
    (["--root=/no/such"], "--root=/no/such is not a directory."),
    (["--root=.", "more"], "Unexpected arguments: more"),
    (["--rot=."], "Unknown flag --rot"),
    (["--root=.", "--output=/proc/report"], "--output: /proc/report can't be"),
  ],
)
def test_bad_arguments_exit_with_2_and_one_line(report, arguments, message):
  code, said, error = report(*arguments)
  assert (code, said) == (2, "")
  (line,) = error.splitlines()
  assert line.startswith(f"error: {message}")


def test_it_is_a_command(tmp_path):
  write_run(tmp_path / "run", [0.25])
  done = subprocess.run(
    [sys.executable, "-m", "sam_jax.report", f"--root={tmp_path}"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert "25.00" in done.stdout
