"""Runs of a sweep that one program trains side by side."""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config import cli, schema
from sam_jax.config.schema import ConfigError
from sam_jax.runs.sweep import PlannedRun
from sam_jax.runs.workdir import to_dict

# Fields that may differ in addition to numbers, and the numbers that may not:
# runs of a group end at the same step, and log at the same steps.
_FREE = ("seed", "notes", "variant")
_FREE_OF_DATA = ("dataset.part", "dataset.label_noise.seed")
_LABELS = ("dataset.label_file", "dataset.label_noise.rate")
_SHARED = ("num_epochs", "log_every_steps")


def program_of(config: ConfigDict) -> str:
  """Return a text that is equal for runs that can train together."""
  fields = dict(schema.flatten(to_dict(config)))
  for name in _FREE:
    del fields[name]
  if not config.eval_on_train:  # else each run evaluates on images of its own
    for name in _FREE_OF_DATA:
      del fields[name]
    for name in _LABELS:  # the program sees only if some may be wrong
      fields[name] = bool(fields[name])
  for name, value in schema.arguments(config).items():
    if name not in _SHARED:  # an integer is of another type in the program
      fields[name] = _type_of(value)
  return json.dumps(fields, sort_keys=True)


def _type_of(value: Any) -> str:
  """Return the type of an argument of a program, with its shape."""
  shape = f"[{len(value)}]" if isinstance(value, list | tuple) else ""
  return type(value).__name__ + shape


def in_groups(
  runs: Iterable[PlannedRun], size: int
) -> Iterator[list[PlannedRun]]:
  """Yield groups of runs that can train together, full ones first.

  Args:
    runs: Runs, in their order; a group is yielded as soon as it is full.
    size: Runs of a full group.
  """
  groups: dict[str, list[PlannedRun]] = {}
  for run in runs:
    program = program_of(run.config)
    group = groups.setdefault(program, [])
    group.append(run)
    if len(group) == size:
      yield groups.pop(program)
  yield from groups.values()


def command_of(runs: Sequence[PlannedRun]) -> list[str]:
  """Return the command that trains a group: of one run, its own command."""
  if len(runs) == 1:
    return runs[0].command
  python, module, _, *_ = runs[0].command
  common = [a for a in runs[0].command[3:] if not _is_of_run(a)]
  own = [[a for a in run.command[3:] if _is_of_run(a)] for run in runs]
  return [
    *(python, module, "sam_jax.train_together", *common),
    *(f"--run={shlex.join(arguments)}" for arguments in own),
  ]


def _is_of_run(argument: str) -> bool:
  """Return True for --workdir, --config and its overrides."""
  is_place = argument.startswith(("--workdir=", "--config="))
  return is_place or cli.is_override(argument)


def check(config: ConfigDict) -> None:
  """Check that a run can train together with others.

  Raises:
    ConfigError: It can't.
  """
  from sam_jax.datasets.catalog import STREAM
  from sam_jax.training import build  # imports JAX

  if config.profile:
    raise ConfigError(
      f"config.profile = {config.profile!r} traces one run, and can't be used"
      " with --together."
    )
  if build.dataset_spec(config).storage == STREAM:
    raise ConfigError(
      f"config.dataset.name = {config.dataset.name!r} can't be used with"
      " --together: every run would decode images of its own on the host, which"
      " limits a single run already."
    )
