"""metrics.jsonl: every scalar of a run, one line for each measurement."""

import collections
import json
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sam_jax import wording
from sam_jax.runs import files
from sam_jax.runs.staged_logs import one_line_errors

logger = logging.getLogger(__name__)

NAME = "metrics.jsonl"


class MetricsFile:
  """Append lines of scalars, after those of earlier processes of the run.

  Attributes:
    last_lines: Scalars by name of each line of the step that the run resumes
      from.
  """

  def __init__(self, path: pathlib.Path, last_step: int):
    """Remove the lines after a step, and those that are damaged.

    Args:
      path: Local file; it may be missing.
      last_step: Steps done so far, at which this process resumes.
    """
    self._path = path
    self.last_lines: list[dict[str, float]] = []
    self._steps: dict[str, set[int]] = collections.defaultdict(set)
    self._cut(last_step)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Append a line.

    Args:
      step: Steps done so far.
      scalars: Finite or infinite numbers by name, such as "train/loss".
    """
    line = json.dumps({"step": step, **scalars}) + "\n"
    with (
      one_line_errors("can't be written", self._path),
      self._path.open("a") as f,
    ):
      f.write(line)

  def read(self) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the step and the scalars of each line of earlier processes."""
    if not self._path.exists():
      return
    with self._path.open("rb") as file:
      for line in file:
        if values := _parse(line):
          yield int(values.pop("step")), values

  def has(self, prefix: str, step: int) -> bool:
    """Return True if an earlier process wrote scalars of a group at a step."""
    return step in self._steps[prefix]

  def warn_of_missing(self, prefix: str, steps: Iterable[int]) -> None:
    """Warn if earlier processes left no line of a group at some steps.

    Args:
      prefix: Group of scalars, such as "train".
      steps: Steps that the config asks for; it may have asked for others when
        the lines were written.
    """
    steps = list(steps)
    missing = [step for step in steps if not self.has(prefix, step)]
    if missing:
      logger.warning(
        "%s lacks %d of %s of %s, those of steps %s: they were lost, or"
        " were not due with the config of that time.",
        self._path.name,
        len(missing),
        wording.count(len(steps), "line"),
        prefix,
        _describe(missing, steps),
      )

  def _cut(self, last_step: int) -> None:
    if not self._path.exists():
      return
    data = self._path.read_bytes()
    lines = [(line, _parse(line)) for line in data.split(b"\n")]
    kept = [
      (line, values)
      for line, values in lines
      if values and values["step"] <= last_step
    ]
    for _, values in kept:
      self._remember(values, last_step)
    # A kill or a full disk may cut the last line, which is not worth a warning:
    # the resumed run writes it again.
    num_damaged = sum(values is None for _, values in lines[:-1])
    if num_damaged:
      logger.warning(
        "%s: %s damaged, and removed.",
        self._path.name,
        wording.part(num_damaged, len(lines) - 1, "line"),
      )
    new = b"".join(line + b"\n" for line, _ in kept)
    if new != data:
      files.write_atomically(self._path, new)

  def _remember(self, line: dict[str, float], last_step: int) -> None:
    step = int(line.pop("step"))
    for name in line:
      self._steps[name.partition("/")[0]].add(step)
    if step == last_step:
      self.last_lines.append(line)


def _parse(line: bytes) -> dict[str, float] | None:
  """Return the numbers of a line, or None if it is damaged."""
  try:
    values: Any = json.loads(line)
  except (ValueError, RecursionError):
    return None
  if not isinstance(values, dict) or type(values.get("step")) is not int:
    return None
  if any(type(value) not in (int, float) for value in values.values()):
    return None
  return values


def _describe(missing: list[int], steps: list[int]) -> str:
  """Return text such as "5 to 20, 30" for some of the steps.

  Args:
    missing: The steps to describe, ascending.
    steps: All steps, ascending; "to" means all of them between two.
  """
  position = {step: i for i, step in enumerate(steps)}
  ranges: list[list[int]] = []
  for step in missing:
    if ranges and position[step] == position[ranges[-1][1]] + 1:
      ranges[-1][1] = step
    else:
      ranges.append([step, step])
  texts = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:5]]
  return ", ".join(texts) + (" and more" if len(ranges) > 5 else "")
