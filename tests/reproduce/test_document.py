"""The document is made from the results of runs, and from nothing else."""

import json
import re

import pytest
from etils import epath

from scripts.reproduce import document, results
from scripts.reproduce.claims import RULE
from scripts.reproduce.levels import LEVELS
from tests.processes import REPOSITORY
from tests.reproduce.small_level import content_of

RESULTS = epath.Path(REPOSITORY / "scripts/reproduce/results")


def write(directory, **levels):
  for name, content in levels.items():
    (directory / f"{name}.json").write_text(json.dumps(content))
  document.write_document(directory / "R.md", directory)
  return (directory / "R.md").read_text()


def cells(text):
  """Return the cells of all rows of Markdown tables."""
  lines = [line for line in text.splitlines() if line.startswith("|")]
  return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_reproduction_md_is_made_from_the_results():
  """Run `python -m scripts.reproduce --document` if this fails."""
  levels = [document.Finished(*x) for x in results.read(RESULTS).items()]
  assert levels
  path = REPOSITORY / "REPRODUCTION.md"
  text = path.read_text()
  assert text == document.text_of(levels)
  links = re.findall(r"!\[.*?\]\((.*?)\)", text)
  assert links
  assert all((REPOSITORY / link).is_file() for link in links)
  figures = (REPOSITORY / "assets/reproduction").iterdir()
  assert {f"assets/reproduction/{f.name}" for f in figures} == set(links)


def test_every_study_and_every_verdict_is_in_the_document(tmp_path):
  path = epath.Path(tmp_path)
  text = write(path, hour=content_of("hour"))
  assert text.index("![") < text.index("| level")  # the picture first
  assert RULE in text
  rows = cells(text)
  finished = document.Finished("hour", content_of("hour"))
  assert not finished.missing
  for study, section in finished.sections.items():
    assert f"### {section.title} (hour)" in text
    assert f"--level=hour --study={study}`" in text
    assert all(list(row) in rows for row in section.rows)
    assert section.claims
  for verdict in finished.verdicts:
    (row,) = (r for r in rows if r[0] == verdict.claim.statement)
    assert row[4] == f"**{verdict.word}**" and row[5] == verdict.needed
    assert row[1].startswith(verdict.claim.source)
  assert {v.word for v in finished.verdicts} > {"not reproduced"}
  links = re.findall(r"!\[.*?\]\((.*?)\)", text)
  assert all((path / link).exists() for link in links)
  counts = [row for row in rows if row[0] == "`--level=hour`"]
  assert [int(x) for x in counts[0][2:]] == [
    finished.count(word)
    for word in ("reproduced", "not reproduced", "contradicted")
  ]
  assert ["`--level=gpu`", LEVELS["gpu"].title, "not run", "", ""] in rows
  studies = ", ".join(LEVELS["gpu"].studies)
  assert ["`python -m scripts.reproduce --level=gpu`", studies] in rows
  assert "1,000 training images a run, one of 60 parts" in text


def test_a_changed_result_changes_the_document(tmp_path):
  content = content_of("minute")
  before = write(epath.Path(tmp_path), minute=content)
  runs = [k for k in content["results"] if "seed=1" in k.split()]
  content["results"][runs[0]] = {"failed": "not finite"}
  after = write(epath.Path(tmp_path), minute=content)
  assert before != after
  assert "- Runs that diverged: none." in before
  assert f"- Runs that diverged: 1.\n  - `{runs[0]}`" in after


def test_studies_without_all_results_are_named(tmp_path):
  studies = ("comparison", "radius")
  text = write(epath.Path(tmp_path), hour=content_of("hour", studies))
  missing = [s for s in LEVELS["hour"].studies if s not in studies]
  assert f"**Not run, or not finished: {', '.join(missing)}.**" in text
  assert "### SAM against SGD (hour)" in text
  assert "### Label noise" not in text


@pytest.mark.parametrize("name", LEVELS)
def test_a_study_is_printed_with_the_command_that_repeats_it(name):
  finished = document.Finished(name, content_of(name))
  for study, section in finished.sections.items():
    text = document.study_text(name, study, section)
    assert text.endswith(f"--level={name} --study={study}")
    assert all(list(row) in cells(text) for row in section.rows)
