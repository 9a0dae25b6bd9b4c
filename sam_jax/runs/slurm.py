"""Submit the runs of a sweep to SLURM, as one array of jobs.

ROOT/slurm/ holds a file for each submission, with its runs in the order of the
array, and the files of submitit: batch scripts, output of jobs, and pickled
commands, which only the jobs read. The comment of a job names the file of its
submission, so that `squeue` tells which runs are queued or running.
"""

import contextlib
import io
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence

from sam_jax import paths
from sam_jax.config.hints import did_you_mean
from sam_jax.config.schema import ConfigError
from sam_jax.runs import files, launch, slurm_job
from sam_jax.runs.launch import Failure
from sam_jax.runs.sweep import PlannedRun

# Parameters of submitit with one value. All but array_parallelism, the number
# of runs at a time, and signal_delay_s, the seconds between the warning and the
# time limit, are options of sbatch.
_NUMBERS = ("array_parallelism", "nodes", "ntasks_per_node", "signal_delay_s")
OPTIONS = (
  *("account", "constraint", "cpus_per_gpu", "cpus_per_task", "dependency"),
  *("exclude", "gpus_per_node", "gpus_per_task", "gres"),
  *("mail_type", "mail_user", "mem", "mem_per_cpu", "mem_per_gpu", "nodelist"),
  *("partition", "qos", "time", "wckey", *_NUMBERS),
)

_COMMENT = "sam_jax.sweep "


def parse_options(texts: Sequence[str]) -> dict[str, str | int]:
  """Return the options of jobs.

  Args:
    texts: "key=value" of each option.

  Raises:
    ConfigError: A text does not have this form, a key is unknown or given
      twice, or the time limit is missing.
  """
  options: dict[str, str | int] = {}
  for text in texts:
    key, separator, value = text.partition("=")
    if key not in OPTIONS:
      hint = did_you_mean(key, OPTIONS)
      raise ConfigError(f"--slurm={text}: unknown key '{key}'. {hint}")
    if not separator or not value:
      raise ConfigError(f"--slurm={text} must look like key=value.")
    if key in options:
      raise ConfigError(f"--slurm gives {key} twice.")
    if key in _NUMBERS and not (value.isdecimal() and int(value)):
      raise ConfigError(f"--slurm={text} must be a positive number.")
    options[key] = int(value) if key in _NUMBERS else value
  if "time" not in options:
    raise ConfigError(
      "--slurm=time=... is missing: the time limit of a job, such as 120"
      " (minutes) or 1-00:00:00. Runs that need longer are requeued."
    )
  return options


class Submitter:
  """Submits runs to SLURM, each of them once."""

  def __init__(self, folder: pathlib.Path, options: dict[str, str | int]):
    """Check that jobs can be submitted.

    Args:
      folder: Directory for the files of jobs, which all nodes can read.
      options: Options of jobs, from `parse_options`.

    Raises:
      ConfigError: submitit or SLURM is not installed.
    """
    try:
      import submitit
    except ImportError as error:
      raise ConfigError(
        "--launcher=slurm needs submitit: pip install 'sam-jax[slurm]'."
      ) from error
    for program in ("sbatch", "squeue", "srun"):
      if not shutil.which(program):
        raise ConfigError(
          f"--launcher=slurm needs SLURM, and {program} is not in $PATH. Start"
          " the sweep where jobs are submitted, or use --launcher=local."
        )
    self._folder = pathlib.Path(os.path.realpath(folder))
    self._executor = submitit.SlurmExecutor(self._folder)
    self._options = options

  def submit_all(
    self, runs: Sequence[PlannedRun], report: Callable[[str], None]
  ) -> list[Failure]:
    """Submit the runs that are not finished, queued or running.

    Args:
      runs: Runs, in their order.
      report: Shows a line to the user.

    Returns:
      The runs that cannot be trained.

    Raises:
      ConfigError: SLURM does not answer, or refuses the jobs.
    """
    jobs = self._jobs_of_runs()
    failures, states, missing = [], {}, []
    for run in runs:
      error, reason = launch.find_result(run)
      if reason := reason or launch.conflict(run):
        failures.append(Failure(run.name, reason))
        states[run.name] = reason
      elif error is not None:
        states[run.name] = "finished before"
      elif run.name in jobs:
        states[run.name] = f"queued or running, job {jobs[run.name]}"
      else:
        missing.append(run)
    if missing:
      for run, job in zip(missing, self._submit(missing), strict=True):
        states[run.name] = f"submitted, job {job}"
    for number, run in enumerate(runs, start=1):
      report(f"[{number}/{len(runs)}] {run.name}: {states[run.name]}")
    return failures

  def _jobs_of_runs(self) -> dict[str, str]:
    """Return {name of a run: job} of the jobs that have not ended."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%k"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      raise ConfigError(f"squeue fails: {' '.join(done.stderr.split())}")
    jobs = {}
    for line in done.stdout.splitlines():
      job, _, comment = line.partition("|")
      file = pathlib.Path(comment.removeprefix(_COMMENT))
      if not comment.startswith(_COMMENT) or file.parent != self._folder:
        continue
      _, _, index = job.partition("_")
      try:
        run = json.loads(file.read_text())["runs"][int(index or 0)]
        jobs[run["name"]] = job
      except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
          f"{file} is missing or damaged ({paths.describe_error(error)}), but"
          f" its job {job} is queued or running: scancel {job}"
        ) from error
    return jobs

  def _submit(self, runs: Sequence[PlannedRun]) -> list[str]:
    """Submit runs as one array; return their jobs."""
    self._folder.mkdir(parents=True, exist_ok=True)
    file = self._folder / f"{uuid.uuid4().hex}.json"
    described = [{"name": r.name, "workdir": str(r.workdir)} for r in runs]
    # Before the jobs exist: from then on their comment leads to this file.
    files.write_json(file, {"runs": described})
    requeue = [sys.executable, "-m", slurm_job.__name__, str(file)]
    self._executor.update_parameters(
      job_name="sam_jax",
      comment=f"{_COMMENT}{file}",
      setup=["set -e"],
      stderr_to_stdout=True,
      teardown=[shlex.join(requeue)],
      additional_parameters={"requeue": True},
      **self._options,
    )
    commands, logs = [r.command for r in runs], [str(r.log) for r in runs]
    try:
      with contextlib.redirect_stderr(io.StringIO()):  # the error has it
        jobs = self._executor.map_array(
          slurm_job.become_training, commands, logs
        )
    except RuntimeError as error:
      cause = paths.describe_error(error)
      raise ConfigError(f"sbatch fails: {cause}") from error
    return [job.job_id for job in jobs]
