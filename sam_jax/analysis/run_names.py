"""Names of runs and of their checkpoints on a command line."""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from sam_jax import paths


class RunName(NamedTuple):
  """The directory of a run, and the step of one of its checkpoints.

  Attributes:
    workdir: Local or gs:// directory.
    step: Step of a checkpoint; None for the newest.
  """

  workdir: str
  step: int | None

  @property
  def short(self) -> str:
    """The last part of the path, with the step if there is one."""
    return self._with_step(pathlib.PurePath(self.workdir).name)

  @property
  def full(self) -> str:
    """The whole path, with the step if there is one."""
    return self._with_step(self.workdir)

  def _with_step(self, path: str) -> str:
    return path if self.step is None else f"{path}@{self.step}"


def parse_names(texts: Sequence[str]) -> list[RunName]:
  """Parse arguments of --workdir, RUN or RUN@STEP.

  Raises:
    ValueError: One is malformed, or two name the same checkpoint.
  """
  names = [_parse(text) for text in texts]
  places = [(_resolve(name.workdir), name.step) for name in names]
  for text, place in zip(texts, places, strict=True):
    if places.count(place) > 1:
      raise ValueError(f"--workdir={text} is given twice.")
  return names


def labels(names: Sequence[RunName]) -> list[str]:
  """Return a label for each run: short where it is unique, or full."""
  short = [name.short for name in names]
  return [n.short if short.count(n.short) == 1 else n.full for n in names]


def _parse(text: str) -> RunName:
  workdir, at, step = text.rpartition("@")
  if not at or os.path.exists(os.path.expanduser(text)):
    return RunName(text, None)
  if not re.fullmatch(r"\d+", step):
    raise ValueError(
      f"--workdir={text} must be RUN@STEP with a number, as in RUN@100."
    )
  return RunName(workdir, int(step))


def _resolve(workdir: str) -> str:
  """Return one spelling of a path."""
  if paths.is_remote(workdir):
    return workdir.rstrip("/")
  return os.path.realpath(paths.resolve(workdir))
