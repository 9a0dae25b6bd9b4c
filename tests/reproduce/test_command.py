"""`python -m scripts.reproduce`: what it plans, writes, resumes and refuses."""

import json

import pytest

from scripts.reproduce.levels import LEVELS
from tests.in_process import run_module
from tests.reproduce.small_level import SMALL


def reproduce(*arguments):
  """Run the command in this process."""
  run_module("scripts.reproduce", *arguments)


def test_command_trains_writes_and_resumes(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(LEVELS, "minute", SMALL)
  command = [
    "--level=minute",
    f"--root={tmp_path}/runs",
    f"--results={tmp_path}",
    f"--output={tmp_path}/R.md",
  ]
  reproduce(*command)
  text = (tmp_path / "R.md").read_text()
  assert "| SGD, 2 epochs |" in text
  assert (tmp_path / "assets/reproduction/minute.png").exists()
  results = json.loads((tmp_path / "minute.json").read_text())
  assert len(results["results"]) == 6  # two seeds of three methods
  assert "group 1 of" in capsys.readouterr().err
  reproduce(*command)
  assert "group" not in capsys.readouterr().err  # nothing is trained again
  assert (tmp_path / "R.md").read_text() == text
  reproduce(*command, "--study=comparison")
  assert "| SAM, 1 epoch  |" in capsys.readouterr().out


@pytest.mark.parametrize("name", LEVELS)
def test_plans(name, capsys, tmp_path):
  reproduce(f"--level={name}", "--plan", f"--root={tmp_path}/runs")
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(f"{name}: {LEVELS[name].title}")
  assert [line.split()[0] for line in lines[1:]] == [
    *LEVELS[name].studies,
    "all",
  ]
  runs, minutes = ([float(x.split()[i]) for x in lines[1:]] for i in (1, -2))
  assert sum(runs[:-1]) == runs[-1]
  assert sum(minutes[:-1]) == pytest.approx(minutes[-1], abs=0.5)
  if in_all := LEVELS[name].minutes:
    assert minutes[-1] <= in_all
    assert lines[0].endswith(f"; about {in_all} minutes in all")
  assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--level is missing"),
    (["--level=day"], "flag --level=day"),
    (["--level=minute", "--study=radios"], "Did you mean 'radius'"),
    (["--level=minute", "--study=norms"], "is none of --level=minute"),
    (["--level=minute", "again"], "Unexpected arguments: again"),
    (["--level=minute", "--root=/proc/a"], "--root: /proc/a can't be written"),
    (["--document", "--output=/"], "--output=/ is a directory."),
  ],
)
def test_mistakes_give_one_line(capsys, arguments, message):
  with pytest.raises(SystemExit) as error:
    reproduce(*arguments)
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ") and message in line
