"""The part of a SLURM job of a sweep that runs on the cluster.

The batch script first calls `become_training` in every task of the job, and
then, once all of them have ended, `python -m sam_jax.runs.slurm_job FILE`. No
process of ours stands between SLURM and the training processes, so that a
signal of SLURM reaches each of them exactly once.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from typing import NoReturn

from sam_jax import paths


def become_training(command: list[str], log: str) -> NoReturn:
  """Replace this process by a training process.

  Args:
    command: Command that trains the run.
    log: Local file to which the first task of the job appends its output. The
      output of the other tasks stays where SLURM writes it.
  """
  if os.environ.get("SLURM_PROCID", "0") == "0":
    path = pathlib.Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
      file.write(f"$ {shlex.join(command)}\n")
      file.flush()
      os.dup2(file.fileno(), sys.stdout.fileno())
      os.dup2(file.fileno(), sys.stderr.fileno())
  os.execv(command[0], command)


def requeue_unfinished(submission: pathlib.Path) -> None:
  """Requeue this job if training stopped on request before its end.

  SLURM sends its warning before the time limit, training saves a checkpoint and
  exits with code 0. A job that was canceled or that failed does not get here.

  Args:
    submission: File of the submission; the index of the array selects a run.
  """
  index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
  run = json.loads(submission.read_text())["runs"][index]
  if (paths.resolve(run["workdir"]) / "result.json").exists():
    return
  print(f"{run['name']} is not finished: requeue the job.", flush=True)
  command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
  subprocess.run(command, check=True)


if __name__ == "__main__":
  requeue_unfinished(pathlib.Path(sys.argv[1]))
