"""Parts of pages that are made from data, and the files of measurements."""

import dataclasses
import datetime
import json
import re
import shutil

import pytest

from sam_jax.reports import markdown
from scripts import record
from scripts.pages import measurements, parts, tables
from scripts.pages.sections import SECTIONS
from tests.in_process import run_module
from tests.processes import REPOSITORY

TYPED = re.compile(
  r"\d\.\d+ (s|times|copies|CPU seconds|hours)\b"
  r"|\d (ms|MiB|GiB|microseconds|images/s)\b"
)
FILES = sorted((REPOSITORY / "docs/numbers").glob("*.json"))


@pytest.mark.parametrize("path", parts.pages(), ids=lambda path: path.name)
def test_pages_show_the_data(path):
  text = path.read_text(encoding="utf-8")
  assert parts.fill(text) == text, "run python -m scripts.pages"


@pytest.mark.parametrize("path", parts.pages(), ids=lambda path: path.name)
def test_no_measured_number_is_typed(path):
  """Times, memory and ratios stand in parts, which are made from files."""
  text = path.read_text(encoding="utf-8")
  typed = TYPED.search(parts.outside(text))
  assert not typed, f"{typed[0]}: see CONTRIBUTING.md, numbers in documents"


@pytest.mark.parametrize(
  "text",
  ["took 1.8 s", "1.83 times SGD's", "4.33 copies", "598 MiB", "12.5 images/s"],
)
def test_measured_numbers_are_known_by_their_units(text):
  assert TYPED.search(text)


def test_every_part_is_on_a_page_and_every_file_in_a_part():
  pages = [path.read_text(encoding="utf-8") for path in parts.pages()]
  assert {name for text in pages for name in parts.names(text)} == {*SECTIONS}
  used = {name for section in SECTIONS.values() for name in section.files}
  assert used == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_measurements_say_how_they_were_made(path):
  found = measurements.read(path.stem)
  assert re.match(r"python -m (sam_jax|scripts)\.", found.made["command"])
  assert datetime.date.fromisoformat(found.made["date"])
  assert found.made["cores"] > 0
  assert {"jax"} <= found.made["versions"].keys()
  # A command that wrote the file knows all of them.
  if "recorded" not in found.made:
    assert {"python", "jaxlib", "flax"} <= found.made["versions"].keys()
    assert found.made["cpu"] and found.made["load"] >= 0
  assert found.rows or found.output or found.costs


@pytest.fixture
def page(tmp_path, monkeypatch):
  """Return a page of its own with a part, which numbers of its own fill."""
  numbers = tmp_path / "numbers"
  shutil.copytree(measurements.DIRECTORY, numbers)
  monkeypatch.setattr(measurements, "DIRECTORY", numbers)
  page = tmp_path / "page.md"
  page.write_text("# A\n<!-- python -m scripts.pages: m -->\n<!-- end -->\nb\n")
  monkeypatch.setattr(parts, "pages", lambda: [page])
  run_module("scripts.pages")
  return page


@pytest.mark.parametrize("changed", ["page.md", "numbers/m.json"])
def test_a_changed_number_is_found_and_put_right(page, changed, capsys):
  before = page.read_text()
  run_module("scripts.pages", "--check")
  file = page.parent / changed
  assert "12.6" in file.read_text()
  file.write_text(file.read_text().replace("12.6", "11.9"))
  capsys.readouterr()
  with pytest.raises(SystemExit, match="1"):
    run_module("scripts.pages", "--check")
  assert capsys.readouterr().out == f"Differs: {page}\n"
  run_module("scripts.pages")
  after = page.read_text()
  assert ("11.9" in after) == (changed != "page.md")
  assert (after == before) == (changed == "page.md")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("<!-- python -m scripts.pages: x -->\n<!-- end -->\n", "'x' is no part"),
    ("<!-- python -m scripts.pages: m -->\n", "No part begins and ends at"),
    ("a\n<!-- end -->\n", "No part begins and ends at: <!-- end -->"),
  ],
)
def test_marks_that_are_wrong_are_refused(page, text, message, capsys):
  page.write_text(text)
  with pytest.raises(SystemExit, match="2"):
    run_module("scripts.pages")
  assert message in capsys.readouterr().err
  assert page.read_text() == text


def test_output_of_a_command_is_kept(page, capfd, monkeypatch):
  monkeypatch.chdir(page.parent)
  program = "import os; print('at', os.getcwd()); sum(range(10**6))"
  record.main(["a_run", "python", "-c", program])
  content = json.loads((page.parent / "numbers/a_run.json").read_text())
  assert content["output"] == ["at ."]
  assert content["cpu_seconds"] > 0 and content["memory_gib"] > 0
  assert content["made"]["command"].startswith("python -c 'import os")
  assert capfd.readouterr().out == f"at {page.parent}\n"


@pytest.mark.parametrize(
  ("arguments", "code"),
  [
    ([], 2),
    (["no-name", "python"], 2),
    (["name", "/no/such/program"], 2),
    (["name", "python", "-c", "raise SystemExit(3)"], "error: exit code 3"),
  ],
)
def test_commands_that_fail_are_not_recorded(page, arguments, code, capsys):
  files = [*page.parent.glob("numbers/*")]
  with pytest.raises(SystemExit) as end:
    record.main(arguments)
  if code == 2:
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
  else:
    assert str(end.value.code).startswith(code)
  assert [*page.parent.glob("numbers/*")] == files


def test_plans_are_read_as_they_are_printed():
  plan = measurements.read("plan_wrn28_10")
  row = tables.parse_plan(plan)
  assert row["slice"] == "v5e:2x4"
  assert row["layout"] == "32 images, m = 32"
  assert row["config"].startswith("`cifar.py:wrn28_10,cifar10")
  text = "\n".join(plan.output)
  assert f"needs {row['needed_gib']:.2f} of {row['usable_gib']:.2f}" in text
  assert f"{row['step_ms']} ms a step" in text
  assert f"at least {row['hours']} hours" in text


def test_tables_choose_rows_and_columns():
  made = {"command": "c", "date": "d", "cores": 1, "versions": {"jax": "0"}}
  rows = [{"a": 1.0, "b": {"median": 2.0, "low": 1.0, "high": 3.0}}, {"a": 2}]
  found = measurements.Measurement("f", made, {"model": "cnn4"}, rows, [], {})
  lines = tables.table({"M": "model", "B": "b"}, lambda row: "b" in row)(
    [found]
  )
  assert lines[:3] == markdown.table(
    ["M", "B"], [["cnn4", "2.00 (1.00 to 3.00)"]], 1
  )
  assert lines[4] == "- d, 1 core, jax 0: `c` ([file](numbers/f.json))."
  twice = [found, dataclasses.replace(found, name="g")]
  (line,) = tables.sources(twice)
  assert line.count("`c`") == 2 and "numbers/g.json" in line
