"""Report finished runs: a Markdown table next to the paper's, and plots.

python -m sam_jax.report --root=runs/digits [--root=DIR] [--output=DIR]

Runs that differ in nothing but the seed are one row. With --output, the table
and the plots are written there. Exit codes: 0, there is a table; 1, no run is
finished; 2, wrong arguments.
"""

import pathlib
import sys

from absl import flags

from sam_jax.config import cli
from sam_jax.reports import results
from sam_jax.reports import table as result_table

_ROOT = flags.DEFINE_multi_string(
  "root", [], "Directory with runs in it; may be given several times."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory for report.md and the plots."
)


def main(argv: list[str]) -> None:
  """Print the report, and write it if asked to."""
  cli.check_arguments(argv, "root")
  for root in _ROOT.value:
    if not pathlib.Path(root).is_dir():
      cli.refuse(f"--root={root} is not a directory.")
  if _OUTPUT.value:
    cli.make_directory("output", _OUTPUT.value)
  runs = results.read_runs(_ROOT.value)
  lines = results.describe_unfinished(runs, _ROOT.value)
  groups = results.group_over_seeds(runs)
  if not groups:
    print("\n".join(lines))
    sys.exit(1)
  lines = [*result_table.table(groups), *lines]
  print("\n".join(lines))
  if _OUTPUT.value:
    from sam_jax.reports import plots  # matplotlib is slow to import

    output = pathlib.Path(_OUTPUT.value)
    (output / "report.md").write_text("\n".join(lines) + "\n")
    for path in plots.write_plots(groups, output):
      print(f"Plot: {path}")


if __name__ == "__main__":
  cli.run(main)
