"""Run a command, and keep what it prints for the pages of docs/.

python -m scripts.record NAME COMMAND [ARGUMENT ...]

Writes docs/numbers/NAME.json: the standard output, the CPU seconds and the
largest memory of a process, with date, versions and machine. The directory that
the command ran in is written as a period. `python -m scripts.pages` puts the
numbers into the pages. Exit codes: 2, wrong arguments; 1, the command failed,
and nothing was written.
"""

import os
import pathlib
import resource
import shlex
import subprocess
import sys
from typing import Any

from sam_jax.config import cli
from scripts import provenance
from scripts.pages import measurements


def main(arguments: list[str]) -> None:
  """Run the command and write the file."""
  if len(arguments) < 2 or not arguments[0].isidentifier():
    cli.refuse("python -m scripts.record NAME COMMAND, NAME of letters and _.")
  name, *command = arguments
  if command[0] == "python":
    command[0] = sys.executable
  content = {"made": provenance.describe(arguments[1:])} | _run(command)
  measurements.write(measurements.DIRECTORY / f"{name}.json", content)


def _run(command: list[str]) -> dict[str, Any]:
  """Run a command that may fail; return its costs and its output."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  try:
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
  except OSError as error:
    cli.refuse(f"{shlex.join(command)}: {error.strerror}.")
  sys.stdout.write(process.stdout)
  if process.returncode:
    sys.exit(f"error: exit code {process.returncode}; nothing is written.")
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
  directory = os.fspath(pathlib.Path.cwd())
  return {
    "cpu_seconds": round(seconds, 2),
    "memory_gib": round(used.ru_maxrss / 2**20, 2),
    "output": process.stdout.replace(directory, ".").splitlines(),
  }


if __name__ == "__main__":
  main(sys.argv[1:])
