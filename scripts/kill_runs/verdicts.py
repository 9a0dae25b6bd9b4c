"""Compare killed runs of a kind with an undisturbed one."""

import dataclasses
import pathlib
import random
import shutil
import sys
from typing import Any

from scripts.kill_runs import data
from scripts.kill_runs.kinds import Kind
from scripts.kill_runs.outcome import differences, outcome
from scripts.kill_runs.places import places
from scripts.kill_runs.runs import Run, RunFailedError, kill_until_done

HEADER = ("kind", "runs", "kills", "starts", "identical", "differ after kills")


@dataclasses.dataclass
class Verdict:
  """The comparison of the runs of a kind with an undisturbed one.

  Attributes:
    kind: Name of the kind.
    runs: Number of runs that were killed.
    kills: Number of kills of all of them.
    starts: Number of starts of all of them.
    failures: Moments of the last kill of each run that differs.
  """

  kind: str
  runs: int = 0
  kills: int = 0
  starts: int = 0
  failures: list[str] = dataclasses.field(default_factory=list)

  def row(self) -> list[str]:
    """Return the cells of the table's row, as in `HEADER`."""
    numbers = [str(n) for n in (self.runs, self.kills, self.starts)]
    identical = "no" if self.failures else "yes"
    return [self.kind, *numbers, identical, "; ".join(self.failures)]


def judge(
  name: str,
  kind: Kind,
  kills: int,
  generator: random.Random,
  directory: pathlib.Path,
) -> Verdict:
  """Kill runs of a kind so many times, and compare what they leave.

  Args:
    name: Name of the kind.
    kind: Its flags.
    kills: Number of kills.
    generator: Source of the moments.
    directory: Where the runs, their data and compiled programs are. What
      differs from the undisturbed run stays there.

  Returns:
    The counts of the kind, and the moments of what differs.
  """
  shared, verdict = directory / "shared", Verdict(name)
  if kind.dataset != "digits":  # which a run prepares itself
    data.write(kind.dataset, str(shared / "data"))
  with places(kind.in_bucket) as place:

    def create(which: str) -> Run:
      path = directory / f"{name}_{which}"
      return Run(kind, place(path), path.with_suffix(".log"), shared)

    first, second = create("undisturbed"), create("again")
    first.finish()  # compiles; the second takes as long as those to kill
    life = second.finish()
    expected = _outcome(first)
    _report(verdict, second, differences(expected, _outcome(second)))
    while verdict.kills < kills:
      verdict.runs += 1
      run = create(str(verdict.runs))
      try:
        kill_until_done(run, kills - verdict.kills, generator, life)
        found = differences(expected, _outcome(run))
      except RunFailedError as error:
        found = [str(error)]
      verdict.kills += len(run.kills)
      verdict.starts += run.starts
      _report(verdict, run, found)
  return verdict


def _outcome(run: Run) -> dict[str, Any]:
  return outcome(run.place.fetch())


def _report(verdict: Verdict, run: Run, found: list[str]) -> None:
  """Print the kills of a run and what differs; remove it if nothing does."""
  print(f"{run.log.stem}: {len(found)} differences", file=sys.stderr)
  for line in (*run.kills, *found):
    print(f"  {line}", file=sys.stderr)
  if found:
    verdict.failures.append(run.kills[-1] if run.kills else "no kill")
  else:
    shutil.rmtree(run.place.fetch())
    run.log.unlink()
