"""A report names damaged runs, and tabulates the others."""

import json
import os
import pathlib
import tempfile

import pytest

from sam_jax.config.schema import default_config
from sam_jax.reports import run_records
from tests.in_process import run_script
from tests.reports.written_runs import write_run


def config_with(**fields):
  """Return a config.json with other values of some top-level fields."""
  config = json.loads(default_config().to_json_best_effort())
  return json.dumps({**config, **fields}).encode()


OTHER_USER = 65534  # nobody

GARBAGE = b"\x80\xff\x00"
NO_OBJECT = "is not a JSON object"
LINE = b'{"step": 1000, "test/error_rate": 0.4}\n'
HUGE = b"1" + 400 * b"0"

# File, content and problem of a run that can't be in the table.
EXCLUDED = [
  ("config.json", None, "is missing"),
  ("config.json", b"", NO_OBJECT),
  ("config.json", b'{"seed": 0, "num_ep', NO_OBJECT),
  ("config.json", GARBAGE, NO_OBJECT),
  ("config.json", b"[1, 2]", NO_OBJECT),
  ("config.json", b"null", NO_OBJECT),
  ("config.json", b"3", NO_OBJECT),
  ("config.json", b"[" * 100_000, NO_OBJECT),
  (
    "config.json",
    b"{}",
    "has no valid model.name, dataset.name, num_epochs",
  ),
  ("config.json", config_with(num_epochs=0), "has no valid num_epochs"),
  ("config.json", config_with(num_epochs="ten"), "has no valid num_epochs"),
  (
    "config.json",
    config_with(sam={"rho": "large", "m": None, "every": None}),
    "has no valid sam.rho, sam.every",
  ),
  ("config.json", config_with(model=3), "has no valid model.name, model"),
  ("config.json", config_with(optimizer=[1]), "has no valid optimizer"),
  ("config.json", config_with(seed={"a": 1}), "has no valid seed.a"),
  ("config.json", config_with(sam={"options": 3}), "has no valid sam.options"),
  ("config.json", config_with(notes=["a"]), "has no valid notes"),
  ("config.json", config_with(variant=1), "has no valid variant"),
  ("config.json", config_with(seed=float("nan")), "has no valid seed"),
  ("config.json", config_with(batch_size=True), "has no valid batch_size"),
  ("config.json", "directory", "is not a file"),
  ("config.json", "pipe", "is not a file"),
  ("config.json", "unreadable", "can't be read: Permission denied"),
  ("result.json", b'{"step": 20', NO_OBJECT),
  ("result.json", GARBAGE, NO_OBJECT),
  ("result.json", b'"done"', NO_OBJECT),
  ("result.json", b"[]", NO_OBJECT),
  ("result.json", b"{}", "has no valid step, error_rate"),
  ("result.json", b'{"step": 0, "error_rate": 0.1}', "has no valid step"),
  (
    "result.json",
    b'{"step": 9, "error_rate": NaN}',
    "has no valid error_rate",
  ),
  ("result.json", b'{"step": 9, "error_rate": "a"}', "has no valid error_rate"),
  ("result.json", b'{"step": 9, "error_rate": 30}', "has no valid error_rate"),
  (
    "result.json",
    b'{"step": ' + HUGE + b', "error_rate": 0.1}',
    "has no valid step",
  ),
  ("result.json", "directory", "is not a file"),
  ("result.json", "unreadable", "can't be read: Permission denied"),
]

# File, content and problem of a run that is in the table nevertheless.
INCLUDED = [
  ("metrics.jsonl", None, "is missing"),
  ("metrics.jsonl", GARBAGE, "1 of 1 line is damaged, the first is line 1"),
  ("metrics.jsonl", LINE + GARBAGE + b"\n" + LINE, "the first is line 2"),
  ("metrics.jsonl", b"3\n[]\n" + LINE, "2 of 3 lines are damaged"),
  ("metrics.jsonl", b'{"test/error_rate": 0.3}\n' + LINE, "1 of 2 lines is"),
  ("metrics.jsonl", b'{"step": "two"}\n' + LINE, "1 of 2 lines is damaged"),
  ("metrics.jsonl", LINE + LINE[:20], "1 of 2 lines is damaged"),
  ("metrics.jsonl", "directory", "is not a file"),
  ("metrics.jsonl", "unreadable", "can't be read: Permission denied"),
]

# Content of sweep.json, and its problem.
PLANS = [
  (b'{"runs": ["a', "is damaged"),
  (b"[]", "is damaged"),
  (b"{}", "is damaged"),
  (GARBAGE, "is damaged"),
  (b"[" * 100_000, "is damaged"),
  (b'{"runs": "whole"}', "is damaged"),
  (b'{"runs": [1]}', "is damaged"),
  (b'{"runs": ["../elsewhere"]}', "is damaged"),
  (b'{"runs": ["a\\u0000"]}', "is damaged"),
  ("directory", "can't be read: Is a directory"),
  ("unreadable", "can't be read: Permission denied"),
]


def damage(file, content):
  """Replace a file by some content or by something else than a file."""
  if content == "unreadable":
    file.touch()
    file.chmod(0)
    return
  file.unlink(missing_ok=True)
  if content == "directory":
    file.mkdir()
  elif content == "pipe":
    os.mkfifo(file)
  elif content is not None:
    file.write_bytes(content)


def read_without_privileges(roots, read=run_records.read_runs):
  """Read runs as a user to whom permissions apply."""
  user = os.geteuid()
  try:
    if user == 0:
      os.seteuid(OTHER_USER)
    return read(roots)
  finally:
    os.seteuid(user)


@pytest.fixture
def root():
  """Return a directory that other users may read, with a whole run."""
  with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    directory.chmod(0o755)
    write_run(directory / "whole", [0.2])
    yield directory
    for path in directory.rglob("*"):
      if not path.is_symlink():
        path.chmod(0o755)


@pytest.fixture
def report(root, capsys, monkeypatch):
  """Run the command; return the rows of its table, and the lines below it."""
  monkeypatch.setattr(run_records, "read_runs", read_without_privileges)

  def run():
    run_script("report", f"--root={root}")
    said, error = capsys.readouterr()
    assert error == ""
    lines = said.splitlines()
    rows = [line for line in lines if line.startswith("| ")][2:]
    return rows, [line for line in lines if line.startswith(("- /", str(root)))]

  return run


@pytest.mark.parametrize(("file", "content", "problem"), EXCLUDED)
def test_damaged_runs_are_named(root, report, file, content, problem):
  write_run(root / "damaged", [0.3], sam__rho=0.7)
  damage(root / "damaged" / file, content)
  (row,), (line,) = report()
  assert " 20.00 " in row
  assert line.startswith(f"- {root}/damaged: damaged: {file} {problem}")


@pytest.mark.parametrize(("file", "content", "problem"), INCLUDED)
def test_damaged_logs_are_named(root, report, file, content, problem):
  write_run(root / "damaged", [0.3], sam__rho=0.7)
  damage(root / "damaged" / file, content)
  (whole, row), (line,) = report()
  assert " 20.00 " in whole
  assert " 30.00 " in row
  assert line.startswith(f"- {root}/damaged: finished; {file}")
  assert problem in line


@pytest.mark.parametrize(("content", "problem"), PLANS)
def test_damaged_plans_of_sweeps_are_named(root, report, content, problem):
  damage(root / "sweep.json", content)
  (row,), (line,) = report()
  assert " 20.00 " in row
  assert line.startswith(f"{root}/sweep.json {problem}")
  assert line.endswith("Runs that were not started are not listed.")


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o100])
def test_directories_without_permission_are_named(root, report, mode):
  """Mode 600 lists the names of files, and mode 100 opens known ones."""
  (root / "locked").mkdir()
  write_run(root / "locked/run", [0.3])
  (root / "locked").chmod(mode)
  if os.geteuid() == 0:
    os.chown(root / "locked", OTHER_USER, -1)
  (row,), (line,) = report()
  assert " 20.00 " in row
  problem = "damaged: the directory can't be read: Permission denied"
  assert line == f"- {root}/locked: {problem}"


def test_text_without_an_encoding_is_escaped(root, capsys, tmp_path):
  write_run(root / os.fsdecode(b"a\xff"), [0.3], is_finished=False)
  write_run(root / "b", [0.3])
  (root / "b/config.json").write_bytes(config_with(notes="\ud800"))
  run_script("report", f"--root={root}", f"--output={tmp_path}")
  said, error = capsys.readouterr()
  assert error == ""
  assert "| \\ud800" in said
  assert f"- {root}/a\\udcff: not finished" in said
  assert said.startswith((tmp_path / "report.md").read_text())


def test_links_among_runs_are_ignored(root, report):
  (root / "again").symlink_to(root / "whole")
  (root / "loop").symlink_to(root)
  (root / "lost").symlink_to(root / "nowhere")
  (row,), lines = report()
  assert " 1 " in row
  assert lines == []
