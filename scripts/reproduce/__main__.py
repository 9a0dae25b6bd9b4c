"""Repeat the paper's experiments with the training loop of sam_jax.

python -m scripts.reproduce --level=minute   # handwritten digits
python -m scripts.reproduce --level=hour     # Fashion-MNIST, two CPU cores
python -m scripts.reproduce --level=gpu      # CIFAR-10, the paper's recipe

--plan prints the number of runs, their cost without compilation, and how long
all takes on the hardware of the level; it trains nothing. Each run
has a directory of its own in --root: the same command resumes where it was
stopped, and trains no finished run again. At the end it writes --results, the
numbers of all runs, and --output, the document made from the results of all
levels. --document does only that. --study=NAME, which may be repeated, trains
and prints these studies alone, and writes nothing else.

Exit codes: 2, it could not start; 130, it was stopped, and resumes.
"""

import functools
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags, logging
from etils import epath

from sam_jax import wording
from sam_jax.config import cli
from sam_jax.runs import compilation

_REPOSITORY = pathlib.Path(__file__).parents[2]
_NAMES = ["minute", "hour", "gpu"]
_LEVEL = flags.DEFINE_enum(
  "level",
  None,
  _NAMES,
  "Size of the experiments. Required, except for --document.",
)
_ROOT = flags.DEFINE_string(
  "root", None, "Directory of the runs; default: runs/reproduce/LEVEL."
)
_RESULTS = flags.DEFINE_string(
  "results",
  str(_REPOSITORY / "scripts/reproduce/results"),
  "Directory of the results, a JSON file for each level.",
)
_OUTPUT = flags.DEFINE_string(
  "output",
  str(_REPOSITORY / "REPRODUCTION.md"),
  "Markdown file to write, with its figures in assets/reproduction.",
)
_STUDY = flags.DEFINE_multi_string(
  "study", [], "Run only these studies, and print their tables."
)
_PLAN = flags.DEFINE_bool("plan", False, "Only print what would be trained.")
_DOCUMENT = flags.DEFINE_bool(
  "document", False, "Only write the document, from the results so far."
)


def main(argv: list[str]) -> None:
  """Run the studies of a level, and write results and document."""
  cli.check_arguments(argv, *([] if _DOCUMENT.value else ["level"]))
  logging.set_verbosity(logging.WARNING)
  if _DOCUMENT.value:
    _write_document()
    return
  from scripts.reproduce.levels import LEVELS

  level = LEVELS[str(_LEVEL.value)]
  names = _STUDY.value or level.studies
  for name in names:
    if name not in level.studies:
      from sam_jax.config.hints import did_you_mean

      cli.refuse(
        f"--study={name} is none of --level={_LEVEL.value}."
        f" {did_you_mean(name, level.studies)}"
      )
  if level.devices:
    # A batch is shared by as many devices on every machine.
    compilation.add_xla_flag(
      f"--xla_force_host_platform_device_count={level.devices}"
    )
  root = epath.Path(_ROOT.value or f"runs/reproduce/{_LEVEL.value}").absolute()
  if _PLAN.value:
    _show_plan(names, root)
    return
  cli.make_directory("root", root)
  _train(names, root)


def _train(names: Sequence[str], root: epath.Path) -> None:
  """Train until every study has its results, and write them."""
  from scripts.reproduce import results
  from scripts.reproduce.document import study_text
  from scripts.reproduce.levels import LEVELS
  from scripts.reproduce.runs import Runs
  from scripts.reproduce.studies import STUDIES
  from scripts.reproduce.training import Laboratory, StoppedError

  started = time.monotonic()

  def report(line: str) -> None:
    minutes = (time.monotonic() - started) / 60
    print(f"[{minutes:5.1f} min] {line}", file=sys.stderr, flush=True)

  level = LEVELS[str(_LEVEL.value)]
  laboratory = Laboratory(level, root)
  while True:
    runs = Runs(level, functools.cache(laboratory.find))
    sections = results.ask_all(runs, {name: STUDIES[name] for name in names})
    if not runs.wanted:
      break
    ready = wording.count(
      len(runs.wanted), "run or measurement", "runs or measurements"
    )
    report(f"{ready} can start")
    try:
      laboratory.do(runs.wanted.values(), report)
    except StoppedError:
      print("Stopped. The same command resumes.", file=sys.stderr)
      sys.exit(130)
  if _STUDY.value:
    for name, section in sections.items():
      cli.show(study_text(str(_LEVEL.value), name, section))
    return
  directory = cli.make_directory("results", _RESULTS.value)
  results.write(directory / f"{_LEVEL.value}.json", runs)
  _write_document()


def _show_plan(names: Sequence[str], root: epath.Path) -> None:
  """Print the runs of every study that no earlier study shares."""
  from scripts.reproduce import results
  from scripts.reproduce.levels import LEVELS
  from scripts.reproduce.runs import Runs
  from scripts.reproduce.studies import STUDIES
  from scripts.reproduce.training import describe_plan

  level = LEVELS[str(_LEVEL.value)]
  in_all = f"; about {level.minutes} minutes in all" if level.minutes else ""
  cli.show(f"{_LEVEL.value}: {level.title}{in_all}")
  runs = Runs(level, lambda job: None, planning=True)
  for name in names:
    before = set(runs.wanted)
    results.ask_all(runs, {name: STUDIES[name]})
    new = [runs.wanted[key] for key in runs.wanted if key not in before]
    cli.show(f"{name:17}{describe_plan(level, new, root)}")
  all_jobs = list(runs.wanted.values())
  cli.show(f"{'all':17}{describe_plan(level, all_jobs, root)}")


def _write_document() -> None:
  from scripts.reproduce import document

  output = cli.make_file("output", _OUTPUT.value)
  document.write_document(output, epath.Path(_RESULTS.value))
  cli.show(f"Written: {os.fspath(output)}")


if __name__ == "__main__":
  cli.run(cli.ends_at_interrupt(main))
