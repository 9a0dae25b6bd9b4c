"""`python -m scripts.reproduce`: what it writes, resumes and refuses."""

import pytest

from tests.in_process import run_module


def reproduce(*arguments):
  """Run the command in this process."""
  run_module("scripts.reproduce", *arguments)


def test_command_trains_writes_and_resumes(tmp_path):
  command = [
    "--experiment=equal_cost",
    "--seeds=2",
    "--epochs=1",
    f"--output={tmp_path}/R.md",
    f"--results={tmp_path}/results.json",
  ]
  reproduce(*command)
  text = (tmp_path / "R.md").read_text()
  assert "| SGD, 2 epochs |" in text
  assert (tmp_path / "assets/reproduction").exists()
  # Nothing is trained again: its result would be saved again.
  results = (tmp_path / "results.json").stat().st_mtime_ns
  reproduce(*command)
  assert (tmp_path / "R.md").read_text() == text
  assert (tmp_path / "results.json").stat().st_mtime_ns == results


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--experiment=equal_cots"], "Did you mean 'equal_cost'"),
    (["--experiment=norms"], "with --experiment the result would replace"),
    (["--seeds=2"], "with --seeds the result would replace"),
    (["--epochs=5"], "with --epochs the result would replace"),
    (["again"], "Unexpected arguments: again"),
    (["--results=/"], "--results=/ is a directory."),
    (["--results=/proc/a"], "--results: /proc can't be written: "),
  ],
)
def test_mistakes_give_one_line(capsys, arguments, message):
  with pytest.raises(SystemExit) as error:
    reproduce(*arguments)
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ") and message in line
