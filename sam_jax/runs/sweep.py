"""Plan a sweep: the names, workdirs, commands and configs of its runs.

ROOT/sweep.json lists every run of a sweep, started or not, so that a report can
tell what is missing: {"runs": [names of directories in ROOT, sorted]}.
"""

import itertools
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from sam_jax import buckets, paths
from sam_jax.config import cli, schedule_rules
from sam_jax.config import files as config_files
from sam_jax.config.hints import closest
from sam_jax.config.schema import ConfigError, validate_config
from sam_jax.runs import files

_FILE = "sweep.json"

# Flags of sam_jax.train that a sweep sets, and the others.
_FLAGS_OF_SWEEPS = ("config", "summary", "workdir")
FLAGS_OF_PROCESSES = ("coordinator_address", "num_processes", "process_id")

_MAX_NAME_BYTES = 255  # of a directory, in most file systems

# Logs of runs with a gs:// workdir, to which no output can be appended.
_LOGS_OF_REMOTE_RUNS = pathlib.Path("~/.cache/sam_jax/logs").expanduser()


class PlannedRun(NamedTuple):
  """One run of a sweep.

  Attributes:
    name: Name of its directory.
    workdir: The directory, local or on gs://.
    log: Local file for its output.
    command: The command that trains it.
    config: The config that the command makes.
  """

  name: str
  workdir: epath.Path
  log: pathlib.Path
  command: list[str]
  config: ConfigDict


def plan(
  config: str, root: epath.Path, grid: Sequence[str], extra: Sequence[str]
) -> list[PlannedRun]:
  """Return the runs of a sweep, those of all shards, with checked configs.

  Args:
    config: Config file, with its arguments after a colon.
    root: Directory of all runs, local or on gs://.
    grid: "field=value,value,..." for each axis. Without axes the function
      `sweep` of the config file lists the runs.
    extra: Flags for every run.

  Raises:
    ConfigError: An argument is wrong.
  """
  for argument in extra:
    _check_flag(argument)
  file, _, variant = config.partition(":")
  points: Sequence[Mapping[str, Any]]
  points = parse_grid(grid) if grid else config_files.read_sweep(config)
  runs = [plan_run(file, variant, root, point, extra) for point in points]
  names = [run.name for run in runs]
  for name in names:
    if names.count(name) > 1:
      raise ConfigError(f"Two runs of this sweep would be called {name!r}.")
  return runs


def _check_flag(argument: str) -> None:
  """Check that an argument is a flag that every run of a sweep may have.

  Raises:
    ConfigError: It is not; the message says why.
  """
  if not argument.startswith("-"):
    raise ConfigError(f"{argument} is not a flag; flags of runs come after --.")
  if cli.is_override(argument):
    return  # checked with the config
  name = argument.lstrip("-").partition("=")[0]
  if name in _FLAGS_OF_SWEEPS:
    raise ConfigError(
      f"{argument} can't be a flag of every run: the sweep decides it."
    )
  if name not in {*FLAGS_OF_PROCESSES, *_flags_of_logging()}:
    hint = closest(name, FLAGS_OF_PROCESSES)
    remedy = f" Did you mean --{hint}?" if hint else ""
    raise ConfigError(f"Unknown flag --{name} after --.{remedy}")


def _flags_of_logging() -> list[str]:
  """Return the names of the flags that absl's logging defines."""
  module = flags.FLAGS.find_module_defining_flag("verbosity") or ""
  found = flags.FLAGS.flags_by_module_dict().get(module, [])
  return [flag.name for flag in found]


def parse_grid(grid: Sequence[str]) -> list[dict[str, str]]:
  """Return all combinations of the values of several axes.

  Args:
    grid: "field=value,value,..." for each axis. Commas inside brackets belong
      to the value: "field=(1,2),(3,)" has two values.

  Raises:
    ConfigError: An axis does not have this form, or two axes have one field.
  """
  axes: dict[str, list[str]] = {}
  for axis in grid:
    field, _, text = axis.partition("=")
    field, values = field.strip(), _split_at_commas(text)
    if not field or not all(values):
      raise ConfigError(
        f"--grid={axis} must look like field=value,value or, for tuples,"
        " field=(1,2),(3,)."
      )
    if field in axes:
      raise ConfigError(f"--grid names the field {field!r} twice.")
    axes[field] = values
  return [
    dict(zip(axes, values, strict=True))
    for values in itertools.product(*axes.values())
  ]


def _split_at_commas(text: str) -> list[str]:
  """Split at commas outside brackets; [""] if the brackets do not match."""
  values, depth = [""], 0
  for character in text:
    depth += (character in "([{") - (character in ")]}")
    if depth < 0:
      break
    if character == "," and depth == 0:
      values.append("")
    else:
      values[-1] += character
  return [value.strip() for value in values] if depth == 0 else [""]


def parse_shard(shard: str) -> tuple[int, int]:
  """Return (i, n) of "i/n".

  Raises:
    ConfigError: The text does not have this form, or i is not below n.
  """
  match = re.fullmatch(r"(\d+)/(\d+)", shard)
  if not match or int(match[1]) >= int(match[2]):
    raise ConfigError(f"--shard={shard} must be i/n with i from 0 to n - 1.")
  return int(match[1]), int(match[2])


def plan_run(
  file: str,
  variant: str,
  root: epath.Path,
  point: Mapping[str, Any],
  extra: Sequence[str],
) -> PlannedRun:
  """Return one run, after the checks of its config that the run will make.

  Args:
    file: Config file.
    variant: Argument of the config file, unless the point has its own.
    root: Directory of all runs.
    point: Overrides of fields of the config; "variant" is the argument of the
      config file.
    extra: Further flags.

  Raises:
    ConfigError: The config does not accept them.
  """
  fields = {k: str(v) for k, v in point.items() if k != "variant"}
  parts = [f"{field}={value}" for field, value in fields.items()]
  if "variant" in point:
    variant = point["variant"]
    parts.insert(0, variant)
  name = ",".join(parts).replace("/", "_") or "run"
  arguments = [f"--config={file}:{variant}" if variant else f"--config={file}"]
  arguments += [f"--config.{k}={v}" for k, v in fields.items()]
  arguments += extra
  size = len(os.fsencode(name))
  if size > _MAX_NAME_BYTES or not _is_name(name):
    raise ConfigError(
      f"A run of this sweep would have a directory called {_shorten(name)}, of"
      f" {size} bytes. Choose other values, of at most {_MAX_NAME_BYTES} bytes"
      " together, or set them in the config file."
    )
  workdir = root / name
  command = [sys.executable, "-m", "sam_jax.train", f"--workdir={workdir}"]
  overrides = [a for a in arguments[1:] if cli.is_override(a)]
  config = cli.read_config([arguments[0], *overrides])
  if resets := _resets(config, fields):
    arguments += resets
    config = cli.read_config([arguments[0], *overrides, *resets])
  try:
    # A config that is wrong on one device is wrong on several.
    validate_config(config, num_devices=1)
  except ConfigError as error:
    raise ConfigError(f"{name}: {error}") from error
  log = local_directory(workdir) / "log.txt"
  return PlannedRun(name, workdir, log, command + arguments, config)


def _resets(config: ConfigDict, point: Mapping[str, Any]) -> list[str]:
  """Return flags that reset what the schedule of a point does not use.

  So one sweep may have several schedules, and options of one of them.

  Args:
    config: Config of the point.
    point: The fields that the sweep sets; these are never reset.
  """
  return [
    f"--config.{unused.name}={unused.default}"
    for unused in schedule_rules.unused_fields(config)
    if unused.cause in point and unused.name not in point
  ]


def _shorten(name: str) -> str:
  return repr(name) if len(name) <= 60 else f"{name[:60]!r}..."


def local_directory(workdir: epath.Path) -> pathlib.Path:
  """Return the directory for the local files of a run or a sweep."""
  if not paths.is_remote(workdir):
    return pathlib.Path(workdir)
  return _LOGS_OF_REMOTE_RUNS / os.fspath(workdir).partition("://")[2]


def read_names(root: epath.PathLike) -> list[str]:
  """Return the names of all runs in the sweep.json of a directory.

  Raises:
    ConfigError: The file is damaged, or can't be read.
  """
  file = paths.resolve(root) / _FILE
  try:
    names = json.loads(file.read_bytes())["runs"]
    if isinstance(names, list) and all(map(_is_name, names)):
      return names
  except FileNotFoundError:
    return []
  except (KeyError, TypeError, ValueError, RecursionError):
    pass  # damaged
  except Exception as error:  # gs:// clients raise errors of their own
    raise ConfigError(
      f"{file} can't be read: {paths.describe_error(error)}."
    ) from error
  raise ConfigError(f"{file} is damaged. Remove it, and start the sweep again.")


def _is_name(name: Any) -> bool:
  """Return True for the name of a directory."""
  is_text = isinstance(name, str) and name not in ("", ".", "..")
  return is_text and not {"/", "\0"} & set(name)


def record_names(root: epath.PathLike, names: Iterable[str]) -> None:
  """Add runs to the sweep.json of a directory, which is created if missing.

  Other shards may do the same at the same time: all add the same names.

  Raises:
    ConfigError: The file is damaged or cannot be written.
  """
  path = paths.resolve(root)
  buckets.check(path, "--root")
  try:
    path.mkdir(parents=True, exist_ok=True)
    runs = sorted({*read_names(path), *names})
    files.write_json(path / _FILE, {"runs": runs})
  except ConfigError:
    raise
  except Exception as error:  # gs:// clients raise errors of their own
    if paths.is_remote(path):
      cause = buckets.describe(error, path)
      raise ConfigError(f"--root={root}: {cause}") from error
    raise ConfigError(
      f"--root={root} can't be written: {paths.describe_error(error)}. Choose"
      " another directory."
    ) from error
