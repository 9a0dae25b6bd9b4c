"""Make REPRODUCTION.md and its figures from the results of all levels."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from sam_jax import wording
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.reports import markdown
from sam_jax.runs import files
from scripts.reproduce import plots, results
from scripts.reproduce.claims import (
  CONTRADICTED,
  NOT_REPRODUCED,
  REPRODUCED,
  RULE,
  Claim,
  Verdict,
  judge,
)
from scripts.reproduce.levels import LEVELS, Level
from scripts.reproduce.runs import Runs
from scripts.reproduce.studies import STUDIES
from scripts.reproduce.studies.section import Section

_FIGURES = "assets/reproduction"


class Finished:
  """The sections of a level, from its file of results.

  Attributes:
    name: Name of the level.
    level: Its size.
    content: Content of the file.
    sections: The studies all of whose results are there, by name.
    missing: Names of the others.
    verdicts: Verdicts on the claims of all sections.
    counted: Results that the sections use.
  """

  def __init__(self, name: str, content: Mapping[str, Any]):
    """Run the studies of a level on results that are known."""
    self.name, self.level, self.content = name, LEVELS[name], content
    self.sections: dict[str, Section] = {}
    self.missing: list[str] = []
    self.counted: dict[str, Mapping[str, Any]] = {}
    known = content["results"]
    for study in self.level.studies:
      runs = Runs(self.level, lambda job: known.get(job.key))
      found = results.ask_all(runs, {study: STUDIES[study]})
      if runs.wanted:
        self.missing.append(study)
      else:
        self.sections |= found
        self.counted |= {key: known[key] for key in runs.asked}
    claims = [c for section in self.sections.values() for c in section.claims]
    self.verdicts = judge(claims)

  def count(self, word: str) -> int:
    """Return the number of claims with a verdict."""
    return sum(verdict.word == word for verdict in self.verdicts)

  @property
  def minutes(self) -> float:
    """Processor time of all results in minutes, as far as it is known."""
    seconds = (r.get("cpu_seconds", 0.0) for r in self.counted.values())
    return sum(seconds) / 60

  @property
  def failures(self) -> list[str]:
    """The runs that diverged."""
    return [key for key, r in self.counted.items() if "failed" in r]


def write_document(path: epath.Path, directory: epath.Path) -> None:
  """Write the document and its figures.

  Args:
    path: The Markdown file; figures go to assets/reproduction next to it.
    directory: Directory of the results, see `results.write`.
  """
  levels = [Finished(*each) for each in results.read(directory).items()]
  figures = path.parent / _FIGURES
  figures.mkdir(parents=True, exist_ok=True)
  for finished in levels:
    _draw(finished, figures)
  files.write_atomically(path, text_of(levels))


def text_of(levels: Sequence[Finished]) -> str:
  """Return the text of the document."""
  largest = levels[::-1][:1]
  lines = ["# The paper's claims, tested", ""]
  lines += [line for each in largest for line in _picture(each)]
  lines += _introduction(levels)
  for each in levels[::-1]:
    lines += _level(each, with_picture=each not in largest)
  lines += _not_run({each.name for each in levels})
  return "\n".join(lines) + "\n"


def _draw(finished: Finished, figures: epath.Path) -> None:
  in_points = [v for v in finished.verdicts if v.claim.unit == "points"]
  if in_points:
    plots.draw_verdicts(in_points, figures / f"{finished.name}.png")
  for study, section in finished.sections.items():
    if section.draw:
      section.draw(figures / f"{finished.name}_{study}.png")


def _picture(finished: Finished) -> list[str]:
  caption = f"Every claim about test errors, on {finished.level.title}."
  return _figure(f"{finished.name}.png", caption)


def _figure(file: str, caption: str) -> list[str]:
  link = os.path.join(_FIGURES, file)
  return [f"![{caption}]({link})", "", f"*{caption}*", ""]


def _introduction(levels: Sequence[Finished]) -> list[str]:
  header = (
    "level",
    "data, network, hardware",
    REPRODUCED,
    NOT_REPRODUCED,
    CONTRADICTED,
  )
  rows = []
  for name, level in LEVELS.items():
    found = next((each for each in levels if each.name == name), None)
    counts: tuple[str, ...] = ("not run", "", "")
    if found:
      words = (REPRODUCED, NOT_REPRODUCED, CONTRADICTED)
      counts = tuple(str(found.count(word)) for word in words)
    rows.append((f"`--level={name}`", level.title, *counts))
  return [
    "This document is made from `scripts/reproduce/results/*.json`, the results"
    " of every run, by `python -m scripts.reproduce --document`; no number in"
    " it is typed. The runs are configs of this repository, trained by"
    " `sam_jax.training`, the loop of `python -m sam_jax.train`. What is not"
    " reproduced is listed like what is.",
    "",
    *markdown.table(header, rows),
    "",
    "## How a claim is judged",
    "",
    RULE,
    "",
    "- Seeds differ in initialization, order of examples, draw of label noise,"
    " and training images: seed s trains on part s of disjoint random parts of"
    " the training set. All are tested on the official test set, which no"
    " choice has seen. So the intervals cover other training images, but not"
    " other test images.",
    "- Hyperparameters are chosen by runs with other seeds, on training images"
    " that are held out for that. Every method of a study has a grid of its own"
    " size, which its table shows. Weight decay is not tuned.",
    "- A run that diverges counts with the error of chance.",
    "- Training amplifies rounding: another machine trains other networks from"
    " the same seeds. A verdict with a p-value near 0.05 can turn.",
    "- These networks and images are small, where they are not the paper's. A"
    " claim that is not reproduced here may hold at the paper's scale, and one"
    " that is reproduced is evidence for the code and the effect, not for the"
    " paper's numbers.",
    "",
  ]


def _level(finished: Finished, *, with_picture: bool) -> list[str]:
  level, name = finished.level, finished.name
  lines = [f"## Level {name}: {level.title}", "", *_facts(finished), ""]
  lines += _picture(finished) if with_picture else []
  if finished.missing:
    studies = ", ".join(finished.missing)
    lines += [f"**Not run, or not finished: {studies}.**", ""]
  lines += _verdict_table(finished.verdicts)
  for study, section in finished.sections.items():
    lines += ["", f"### {section.title} ({name})", ""]
    lines += [section.text, ""]
    lines += markdown.table(section.header, section.rows)
    lines += ["", f"`{command(name, study)}`"]
    if section.draw:
      figure = _figure(f"{name}_{study}.png", section.caption)
      lines += ["", *figure[:-1]]
  return [*lines, ""]


def command(level: str, study: str) -> str:
  """Return the command that trains a study, and prints its table."""
  return f"python -m scripts.reproduce --level={level} --study={study}"


def _not_run(run: Collection[str]) -> list[str]:
  """Return the section about levels without results."""
  rows = [
    (f"`python -m scripts.reproduce --level={name}`", ", ".join(level.studies))
    for name, level in LEVELS.items()
    if name not in run
  ]
  if not rows:
    return []
  table = markdown.table(("command", "studies without a result"), rows)
  return ["## What was not run", "", *table]


def _facts(finished: Finished) -> list[str]:
  level, counted = finished.level, finished.counted
  made = finished.content["made"]
  versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
  failures = finished.failures
  return [
    f"- {len(counted)} runs and measurements, {finished.minutes:.0f} minutes of"
    f" processor time on {made['cores']} cores of an {made['cpu']}, finished on"
    f" {made['date']}; {versions}.",
    f"- {_size(level)}, {wording.count(level.epochs, 'epoch')};"
    f" {wording.count(level.seeds, 'seed')} a result,"
    f" {len(level.tuning_seeds)} more for each hyperparameter tried. The recipe"
    f" is that of `{level.config}` with the changes in"
    " `scripts/reproduce/levels.py`.",
    f"- Runs that diverged: {len(failures) or 'none'}."
    + "".join(f"\n  - `{key}`" for key in failures),
  ]


def _size(level: Level) -> str:
  """Describe the training images of a run."""
  config = level.make_config({})
  count = dataset_spec(config.dataset.name).train_examples or 0
  size = f"{count // level.parts:,} training images a run"
  return f"{size}, one of {level.parts} parts" if level.parts > 1 else size


def _verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
  header = (
    "claim",
    "paper",
    "difference here",
    "p, corrected",
    "verdict",
    "to decide it",
  )
  rows = [
    (
      v.claim.statement,
      f"{v.claim.source}: {v.claim.paper}",
      _difference(v.claim),
      f"{v.p_value:.2g}",
      f"**{v.word}**",
      v.needed,
    )
    for v in verdicts
  ]
  return markdown.table(header, rows)


def _difference(claim: Claim) -> str:
  mean, half = claim.interval
  digits = 3 if claim.unit.startswith("of") else 2
  return f"{mean:+.{digits}f} ± {half:.{digits}f} {claim.unit}"


def study_text(name: str, study: str, section: Section) -> str:
  """Return the table and the claims of one study, for a terminal.

  Claims are judged with those of this study alone.
  """
  lines = [section.title, "", *markdown.table(section.header, section.rows)]
  if section.claims:
    lines += ["", *_verdict_table(judge(section.claims))]
  return "\n".join([*lines, "", f"Again: {command(name, study)}"])
