"""Results of all runs of a level: found in directories, kept as JSON."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from sam_jax.runs import files
from scripts import provenance
from scripts.reproduce.levels import LEVELS
from scripts.reproduce.runs import NotTrainedError, Runs
from scripts.reproduce.studies.section import Section

Study = Callable[[Runs], Section]


def ask_all(runs: Runs, studies: Mapping[str, Study]) -> dict[str, Section]:
  """Run studies; those that wait for a choice only ask for their runs.

  Returns:
    The sections of the studies that waited for no choice. They are complete if
    `runs.wanted` is empty.
  """
  sections = {}
  for name, study in studies.items():
    try:
      sections[name] = study(runs)
    except NotTrainedError:
      continue
  return sections


def write(path: epath.Path, runs: Runs) -> None:
  """Write the results that studies asked for, and how they were made."""
  found = {key: runs.result(job) for key, job in list(runs.asked.items())}
  command = ["python", "-m", "scripts.reproduce", f"--level={path.stem}"]
  made = provenance.describe(command)
  files.write_json(path, {"made": made, "results": found})


def read(directory: epath.Path) -> dict[str, dict[str, Any]]:
  """Return the content of the files of all levels that have one."""
  paths = {name: directory / f"{name}.json" for name in LEVELS}
  return {
    name: json.loads(path.read_text())
    for name, path in paths.items()
    if path.exists()
  }
