r"""Trains many runs, each in its own directory.

python -m sam_jax.sweep --config=configs/digits.py --root=runs/digits
python -m sam_jax.sweep --config=configs/digits.py:sam --root=runs/rho \
  --grid sam.rho=0.02,0.05,0.1 --grid seed=0,1,2 -- --config.num_epochs=10

Without --grid the config's own `sweep()` says which runs there are. Arguments
after "--" go to every run. The same command again skips finished runs and goes
on with the others. ROOT/sweep.json names all of them, those of other shards
too. Exit codes: 0, all runs are finished; 1, some are not; 2, the sweep could
not start; 130, it was interrupted.
"""

import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import app, flags
from etils import epath
from ml_collections import ConfigDict

from sam_jax.config import cli as command_line
from sam_jax.config import files
from sam_jax.config.schema import ConfigError, validate_config
from sam_jax.runs import distributed, sweep_plan
from sam_jax.runs import preemption as stopping
from sam_jax.runs import workdir as workdir_lib

_CONFIG = flags.DEFINE_string(
  "config", None, "Config file, with its arguments after a colon."
)
_ROOT = flags.DEFINE_string("root", None, "Directory of all the runs.")
_GRID = flags.DEFINE_multi_string(
  "grid", [], "field=value,value,...; several make all combinations."
)
_SHARD = flags.DEFINE_string(
  "shard", "0/1", "i/n: train every n-th run, from the i-th on (from 0)."
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Only print the commands of the runs."
)

_STATUS_OF_INTERRUPT = 130

# Output can't be appended to what lies on gs://.
_LOGS_OF_REMOTE_RUNS = pathlib.Path("~/.cache/sam_jax/logs").expanduser()


class SweepError(ValueError):
  """The sweep can't start; one line says why."""


class PlannedRun(NamedTuple):
  """A run of the sweep.

  Attributes:
    name: Name of its directory.
    workdir: The directory, local or on gs://.
    log: Local file for its output.
    command: What trains it.
    config: The config that the command makes.
  """

  name: str
  workdir: epath.Path
  log: pathlib.Path
  command: list[str]
  config: ConfigDict


class Failure(NamedTuple):
  """A run that did not finish, and why."""

  run: PlannedRun
  reason: str


def main(argv: Sequence[str]) -> None:
  """Plans the runs and trains them one after another."""
  try:
    index, count = parse_shard(_SHARD.value)
    planned = plan(_CONFIG.value, _ROOT.value, _GRID.value, argv[1:])
    runs = planned[index::count]
    if _DRY_RUN.value:
      show(runs)
      return
    environment = environment_of_runs(count)
    record(planned, _ROOT.value)
  except SweepError as error:
    command_line.refuse(str(error))
  with Interruptions() as interruptions:
    failures = train_all(runs, environment, interruptions)
  if interruptions.happened:
    say("Interrupted. The same command goes on from here.")
    sys.exit(_STATUS_OF_INTERRUPT)
  say(f"{len(runs) - len(failures)} of {len(runs)} runs are finished.")
  for failure in failures:
    say(f"  {failure.run.name}: {failure.reason}, see {failure.run.log}")
  if failures:
    sys.exit(1)


def show(runs: Sequence[PlannedRun]) -> None:
  """Prints the commands of runs."""
  # A reader such as head may have enough before the end.
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  for run in runs:
    print(shlex.join(run.command))


def say(line: str) -> None:
  """Prints a line, unless the terminal is gone."""
  try:
    print(line, flush=True)
  except OSError:
    sys.stdout = None  # to which print prints nothing


def plan(
  config: str | None,
  root: str | None,
  grid: Sequence[str],
  extra: Sequence[str],
) -> list[PlannedRun]:
  """Lists the runs of all shards.

  Args:
    config: Config file, with its arguments after a colon.
    root: Directory of all the runs, local or on gs://.
    grid: "field=value,value,..." for each axis; none: the config's `sweep()`.
    extra: Arguments for every run.

  Returns:
    The runs, their configs checked.

  Raises:
    SweepError: An argument is wrong.
  """
  for argument in extra:
    if not argument.startswith("-"):
      raise SweepError(f"{argument} is no flag; flags of runs come after --.")
  for name, value in (("config", config), ("root", root)):
    if not value:
      raise SweepError(f"--{name} is missing.")
  file, _, variant = config.partition(":")
  points = parse_grid(grid) if grid else read_sweep(file, variant)
  runs = [
    plan_run(file, variant, epath.Path(root), point, extra) for point in points
  ]
  names = [run.name for run in runs]
  for name in names:
    if names.count(name) > 1:
      raise SweepError(f"Two runs of this sweep would be called {name!r}.")
  return runs


def parse_grid(grid: Sequence[str]) -> list[dict[str, str]]:
  """Returns all combinations of the values of several axes.

  Args:
    grid: "field=value,value,..." for each axis.

  Raises:
    SweepError: An axis is not of that form.
  """
  axes = {}
  for axis in grid:
    field, _, values = axis.partition("=")
    field, values = field.strip(), [v.strip() for v in values.split(",")]
    if not field or not all(values):
      raise SweepError(f"--grid={axis} must look like field=value,value.")
    if field in axes:
      raise SweepError(f"--grid names the field {field!r} twice.")
    axes[field] = values
  return [
    dict(zip(axes, values, strict=True))
    for values in itertools.product(*axes.values())
  ]


def parse_shard(shard: str) -> tuple[int, int]:
  """Reads "i/n".

  Raises:
    SweepError: It is not of that form, or i is not below n.
  """
  match = re.fullmatch(r"(\d+)/(\d+)", shard)
  if not match or int(match[1]) >= int(match[2]):
    raise SweepError(f"--shard={shard} must be i/n with i from 0 to n - 1.")
  return int(match[1]), int(match[2])


def read_sweep(file: str, variant: str) -> list[dict[str, Any]]:
  """Returns the runs that a config file's `sweep` yields.

  Raises:
    SweepError: It can't be read, or has no such function.
  """
  try:
    return files.read_sweep(f"{file}:{variant}")
  except ConfigError as error:
    raise SweepError(str(error)) from error


def plan_run(
  file: str,
  variant: str,
  root: epath.Path,
  point: dict[str, Any],
  extra: Sequence[str],
) -> PlannedRun:
  """Makes the command of a run, and checks its config as the run will.

  Args:
    file: Config file.
    variant: Words after its colon, unless the point has its own.
    root: Directory of all the runs.
    point: Overrides of the config's fields; "variant" is its words.
    extra: Further arguments.

  Raises:
    SweepError: The config doesn't take them.
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
  workdir = root / name
  command = [sys.executable, "-m", "sam_jax.train", f"--workdir={workdir}"]
  config = _read_config([a for a in arguments if a.startswith("--config")])
  try:
    # What one device refuses, several would too.
    validate_config(config, num_devices=1)
  except ConfigError as error:
    raise SweepError(f"{name}: {error}") from error
  log = _local_directory(workdir) / "log.txt"
  return PlannedRun(name, workdir, log, command + arguments, config)


def _local_directory(workdir: epath.Path) -> pathlib.Path:
  """Where the log of a run lies."""
  _, is_remote, path = os.fspath(workdir).partition("://")
  return _LOGS_OF_REMOTE_RUNS / path if is_remote else pathlib.Path(workdir)


def _read_config(arguments: Sequence[str]) -> ConfigDict:
  """The config that these arguments of a run make."""
  try:
    return command_line.read_config(arguments)
  except ConfigError as error:
    raise SweepError(str(error)) from error


def environment_of_runs(num_shards: int) -> dict[str, str]:
  """Returns the environment variables of the runs.

  Shards that srun or mpirun starts, the runs of which are to have nothing to do
  with each other, must not pass on that they are several.

  Raises:
    SweepError: The machines of the shards can't train apart.
  """
  if num_shards == 1:
    return dict(os.environ)
  try:
    return distributed.environment_of_one(os.environ)
  except ValueError as error:
    raise SweepError(f"--shard must be left out: {error}") from error


def record(runs: Sequence[PlannedRun], root: str) -> None:
  """Adds the names of runs to ROOT/sweep.json, for the report of the sweep.

  Raises:
    SweepError: It can't be read or written.
  """
  if "://" not in root:
    command_line.make_directory("root", root)
  try:
    epath.Path(root).mkdir(parents=True, exist_ok=True)
    sweep_plan.add_to_plan(root, [run.name for run in runs])
  except ConfigError as error:
    raise SweepError(str(error)) from error
  except Exception as error:  # gs:// has errors of its own
    raise SweepError(f"--root={root} can't be written: {error}") from error


def train_all(
  runs: Sequence[PlannedRun],
  environment: dict[str, str],
  interruptions: "Interruptions",
) -> list[Failure]:
  """Trains the runs that are not finished, until interrupted.

  Returns:
    Those that still are not.
  """
  failures = []
  for number, run in enumerate(runs, start=1):
    label = f"[{number}/{len(runs)}] {run.name}"
    start = time.monotonic()
    reason = conflict(run)
    if reason:
      say(f"{label}: {reason}")
    elif is_finished(run):
      say(f"{label}: finished before")
    else:
      say(f"{label}: training")
      reason = train(run, environment, interruptions)
      seconds = time.monotonic() - start
      said = reason or f"finished, error {last_error(run):.2%}"
      say(f"{label}: {said} ({seconds:.0f} s)")
    if reason:
      failures.append(Failure(run, reason))
    if interruptions.happened:
      break
  return failures


def conflict(run: PlannedRun) -> str:
  """Says whether the directory holds a run with another config."""
  try:
    old = workdir_lib.read_config(run.workdir)
  except ConfigError:
    return ""  # the run itself will say so
  if old is None or not workdir_lib.has_begun(run.workdir):
    return ""
  different = workdir_lib.differences(old, workdir_lib.to_dict(run.config))
  if not different:
    return ""
  return f"holds a run with another config: {'; '.join(different)}"


def is_finished(run: PlannedRun) -> bool:
  """Whether a run has its result."""
  return (run.workdir / "result.json").exists()


def last_error(run: PlannedRun) -> float:
  """The error rate at the end of a finished run."""
  return json.loads((run.workdir / "result.json").read_text())["error_rate"]


def train(
  run: PlannedRun,
  environment: dict[str, str],
  interruptions: "Interruptions",
) -> str:
  """Trains a run, its output appended to its log.

  Returns:
    Why it is not finished; "" if it is.
  """
  run.log.parent.mkdir(parents=True, exist_ok=True)
  with run.log.open("a") as log:
    log.write(f"$ {shlex.join(run.command)}\n")
    log.flush()
    # In a session of its own, a terminal's Ctrl-C reaches only this process,
    # which passes it on once.
    process = subprocess.Popen(
      run.command,
      env=environment,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )
    code = interruptions.wait(process)
  if is_finished(run):
    return ""
  if interruptions.happened:
    return "interrupted"
  if code == 0:
    return "stopped before its end"
  return f"failed with exit code {code}"


class Interruptions:
  """Passes signals to stop on to the run: the first to stop, others to kill."""

  def __init__(self):
    self.happened = False
    self._process = None
    self._previous = {}

  def __enter__(self) -> "Interruptions":
    for number in stopping.stop_signals():
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def wait(self, process: subprocess.Popen) -> int:
    """Waits for a run; returns its exit code."""
    self._process = process
    if self.happened:  # just before it started
      process.terminate()
    code = process.wait()
    self._process = None
    return code

  def _handle(self, number, frame) -> None:
    del frame
    is_first, self.happened = not self.happened, True
    if self._process is None:
      return
    if is_first:
      self._process.terminate()
      say("Stopping the run; once more kills it.")
    elif not stopping.repeats_itself(number):
      self._process.kill()


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
