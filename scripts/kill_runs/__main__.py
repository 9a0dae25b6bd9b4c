"""Kill runs with SIGKILL at random moments; compare their bits.

python -m scripts.kill_runs --kills=100

Each run is started again after each kill until it is done. Then everything that
it left is compared with what an undisturbed run left. Half of the moments are
drawn from the whole life of a process, imports included; the others are up to
50 ms after a file or a checkpoint appeared. Exit code 1: runs differ.
"""

import pathlib
import random
import shutil
import sys
import tempfile

from absl import flags, logging

from sam_jax.config import cli

_KILLS = flags.DEFINE_integer("kills", 100, "Kills over all kinds.", 1)
_KINDS = flags.DEFINE_list("kinds", None, "Kinds of run; default: all.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides the moments.")


def main(argv: list[str]) -> None:
  """Kill runs of all kinds and print a table."""
  cli.check_arguments(argv)
  logging.set_verbosity(logging.ERROR)  # Orbax and TensorBoard report reads
  # Imported late: a mistyped flag is reported without waiting for JAX.
  from sam_jax.config.hints import did_you_mean
  from sam_jax.reports import markdown
  from scripts.kill_runs.kinds import KINDS
  from scripts.kill_runs.runs import RunFailedError
  from scripts.kill_runs.verdicts import HEADER, judge

  names = _KINDS.value or list(KINDS)
  for name in names:
    if name not in KINDS:
      cli.refuse(f"--kinds={name} is unknown. {did_you_mean(name, KINDS)}")
  directory = pathlib.Path(tempfile.mkdtemp(prefix="kill_runs_"))
  verdicts = []
  for i, name in enumerate(names[: _KILLS.value]):
    kills = len(range(i, _KILLS.value, len(names)))
    generator = random.Random(f"{_SEED.value} {name}")
    try:
      verdicts.append(judge(name, KINDS[name], kills, generator, directory))
    except RunFailedError as error:
      sys.exit(f"error: {name}, undisturbed: {error} (see {directory}).")
  rows = [verdict.row() for verdict in verdicts]
  print("\n".join(markdown.table(HEADER, rows, text_columns=1)))
  if any(verdict.failures for verdict in verdicts):
    print(f"The runs that differ are in {directory}.")
    sys.exit(1)
  shutil.rmtree(directory)


if __name__ == "__main__":
  cli.run(main)
