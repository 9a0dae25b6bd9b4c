"""Reports finished runs: a Markdown table beside the paper's, and plots.

python -m sam_jax.report --root=runs/digits [--root=DIR] [--output=DIR]

Runs that differ in nothing but the seed are one row. With --output, the table
and the plots are written there. Exit codes: 0, there is a table; 1, no run is
finished; 2, wrong arguments.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from sam_jax.config import cli as command_line
from sam_jax.config.schema import ConfigError
from sam_jax.reports import results
from sam_jax.reports import table as result_table

_ROOT = flags.DEFINE_multi_string(
  "root", [], "Directory with runs in it; may be given several times."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory for report.md and the plots."
)


def main(argv: Sequence[str]) -> None:
  """Prints the report, and writes it if asked to."""
  if len(argv) > 1:
    command_line.refuse(f"Unexpected arguments: {' '.join(argv[1:])}")
  if not _ROOT.value:
    command_line.refuse("--root is missing.")
  for root in _ROOT.value:
    if not pathlib.Path(root).is_dir():
      command_line.refuse(f"--root={root} is not a directory.")
  if _OUTPUT.value:
    command_line.make_directory("output", _OUTPUT.value)
  try:
    runs = results.read_runs(_ROOT.value)
  except ConfigError as error:
    command_line.refuse(str(error))
  lines = results.describe_unfinished(runs, _ROOT.value)
  groups = results.group_over_seeds(runs)
  if not groups:
    print("\n".join(lines))
    sys.exit(1)
  lines = [*result_table.table(groups), *lines]
  print("\n".join(lines))
  if _OUTPUT.value:
    from sam_jax.analysis import result_plots  # matplotlib is slow to import

    output = pathlib.Path(_OUTPUT.value)
    (output / "report.md").write_text("\n".join(lines) + "\n")
    for path in result_plots.write_plots(groups, output):
      print(f"Plot: {path}")


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
