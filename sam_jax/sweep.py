r"""Train many runs, each in its own directory.

python -m sam_jax.sweep --config=configs/digits.py --root=runs/digits
python -m sam_jax.sweep --config=configs/digits.py:sam --root=runs/rho \
  --grid sam.rho=0.02,0.05,0.1 --grid seed=0,1,2 -- --config.num_epochs=10

Without --grid the function `sweep` of the config file lists the runs. Flags
after "--" go to every run. The same command again skips finished runs and
resumes the others. ROOT/sweep.json lists the runs of all shards.

--together=8 trains up to 8 runs that differ only in numbers, such as sam.rho,
the learning rate or the seed, side by side in one program.

--launcher=slurm submits the runs as an array of jobs, and does not wait:
python -m sam_jax.sweep --config=configs/digits.py --root=runs/digits \
  --launcher=slurm --slurm=time=120 --slurm=partition=gpu
The same command again submits runs that failed, and reports the others.

Exit codes: 0, all runs are finished, or SLURM has them; 1, some are not; 2, the
sweep could not start; 130, it was interrupted.
"""

import os
import shlex
import sys
from collections.abc import Sequence

from absl import flags, logging
from etils import epath

from sam_jax import paths, wording
from sam_jax.config import cli
from sam_jax.config.schema import ConfigError
from sam_jax.runs import distributed, groups, launch, slurm, sweep

_CONFIG = flags.DEFINE_string(
  "config", None, "Config file, with its words after a colon. Required."
)
_ROOT = flags.DEFINE_string("root", None, "Directory of all runs. Required.")
_GRID = flags.DEFINE_multi_string(
  "grid",
  [],
  "field=value,value,...; several make all combinations. A tuple is one value:"
  " field=(1,2),(3,).",
)
_SHARD = flags.DEFINE_string(
  "shard", "0/1", "i/n: train every n-th run, starting with run i (from 0)."
)
_TOGETHER = flags.DEFINE_integer(
  "together",
  1,
  "Most runs that train side by side in one process: they differ in numbers.",
  lower_bound=1,
)
_LAUNCHER = flags.DEFINE_enum(
  "launcher", "local", ["local", "slurm"], "Where runs are trained."
)
_SLURM = flags.DEFINE_multi_string(
  "slurm",
  [],
  "key=value: an option of sbatch, such as time=120 or partition=gpu, for"
  " --launcher=slurm; may be repeated.",
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Only print the commands of the runs."
)

_EXIT_CODE_OF_INTERRUPT = 130


def main(argv: list[str]) -> None:
  """Plan the runs, and train them one after another or in groups."""
  logging.set_verbosity(logging.WARNING)  # JAX logs the backends it tries
  if not _CONFIG.value:
    cli.refuse("--config is missing, see --help.")
  if not _ROOT.value:
    cli.refuse("--root is missing, see --help.")
  root = paths.resolve(_ROOT.value)
  index, count = sweep.parse_shard(_SHARD.value)
  check_launcher(count)
  planned = sweep.plan(_CONFIG.value, root, _GRID.value, argv[1:])
  check_choices(planned)
  if _TOGETHER.value > 1:
    check_together(planned, argv[1:], count)
  runs = planned[index::count]
  if _DRY_RUN.value:
    print_commands(runs)
    return
  if _LAUNCHER.value == "slurm":
    submit(planned, root)
    return
  environment = launch.environment_of_runs(count)
  sweep.record_names(root, [run.name for run in planned])
  with launch.Interruptions(report) as interruptions:
    failures = launch.train_all(
      runs, environment, interruptions, report, _TOGETHER.value
    )
  if interruptions.happened:
    report("Interrupted. Run the same command again to resume.")
    sys.exit(_EXIT_CODE_OF_INTERRUPT)
  part = wording.part(len(runs) - len(failures), len(runs), "run")
  report(f"{part} finished.")
  for failure in failures:
    report(f"  {failure.name}: {failure.reason}")
  if failures:
    sys.exit(1)


def check_launcher(num_shards: int) -> None:
  """Refuse flags of one launcher together with the other one.

  Args:
    num_shards: Number of shards of the sweep.
  """
  if _LAUNCHER.value == "slurm":
    slurm.parse_options(_SLURM.value)
    if num_shards > 1:
      cli.refuse("--shard must be left out: --launcher=slurm submits all runs.")
  elif _SLURM.value:
    cli.refuse("--slurm needs --launcher=slurm.")


def submit(runs: Sequence[sweep.PlannedRun], root: epath.Path) -> None:
  """Submit the runs of a sweep to SLURM."""
  submitter = slurm.Submitter(
    sweep.local_directory(root) / "slurm", slurm.parse_options(_SLURM.value)
  )
  sweep.record_names(root, [run.name for run in runs])
  failures = submitter.submit_all(runs, report)
  part = wording.part(len(runs) - len(failures), len(runs), "run")
  report(
    f"{part} finished, or in SLURM's queue. The same command again reports"
    " them."
  )
  if failures:
    sys.exit(1)


def check_choices(runs: Sequence[sweep.PlannedRun]) -> None:
  """Build methods, optimizers and networks of runs, to see that they exist.

  Raises:
    ConfigError: A run would be refused.
  """
  from sam_jax.training import build  # imports JAX

  for run in runs:
    try:
      build.validate(run.config, num_devices=1)
    except ConfigError as error:
      raise ConfigError(f"{run.name}: {error}") from error


def check_together(
  runs: Sequence[sweep.PlannedRun], extra: Sequence[str], num_shards: int
) -> None:
  """Check that the runs can train together with others.

  Args:
    runs: The runs.
    extra: Flags of every run.
    num_shards: Number of shards of the sweep.

  Raises:
    ConfigError: They can't.
  """
  flag = f"--together={_TOGETHER.value} must be left out"
  if _LAUNCHER.value == "slurm":
    raise ConfigError(
      f"{flag}: --launcher=slurm trains each run in a job of its own."
    )
  for argument in extra:
    if argument.lstrip("-").partition("=")[0] in sweep.FLAGS_OF_PROCESSES:
      raise ConfigError(f"{flag}: {argument} is for runs of several processes.")
  if num_shards == 1 and distributed.is_cluster(os.environ):
    raise ConfigError(
      f"{flag}, or --shard given: several processes were started here, and"
      " would train every run together."
    )
  for run in runs:
    try:
      groups.check(run.config)
    except ConfigError as error:
      raise ConfigError(f"{run.name}: {error}") from error


def print_commands(runs: Sequence[sweep.PlannedRun]) -> None:
  """Print the command of each process."""
  commands = map(groups.command_of, groups.in_groups(runs, _TOGETHER.value))
  cli.show("\n".join(map(shlex.join, commands)))


def report(line: str) -> None:
  """Print a line, unless the terminal is closed."""
  try:
    print(line, flush=True)
  except OSError:
    sys.stdout = None  # type: ignore[assignment]  # `print` then does nothing


if __name__ == "__main__":
  cli.run(main)
