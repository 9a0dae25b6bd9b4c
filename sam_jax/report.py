"""Report finished runs: a Markdown table next to the paper's, and plots.

python -m sam_jax.report --root=runs/digits [--root=DIR] [--output=DIR]

Runs that differ only in the seed are one row. With --output, the table
and the plots are written there. Exit codes: 0, there is a table; 1, no run is
finished; 2, wrong arguments.
"""

import sys
from collections.abc import Sequence

from absl import flags
from etils import epath

from sam_jax import buckets, paths
from sam_jax.config import cli
from sam_jax.reports import results, run_records
from sam_jax.reports.table import result_table

_ROOT = flags.DEFINE_multi_string(
  "root", [], "Directory with runs in it. Required; may be repeated."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory for report.md and the plots."
)


def main(argv: list[str]) -> None:
  """Print the report, and write it if asked to."""
  cli.check_arguments(argv, "root")
  roots = [paths.resolve(root) for root in _ROOT.value]
  for root in roots:
    buckets.check(root, "--root")
    if not root.is_dir():
      cli.refuse(f"--root={root} is not a directory.")
  output = None
  if _OUTPUT.value:
    output = cli.make_directory("output", _OUTPUT.value)
  runs, problems = run_records.read_runs(roots)
  missing = [*run_records.describe_unfinished(runs, roots), *problems]
  groups = results.group_over_seeds(runs)
  if not groups:
    cli.show("\n".join(missing))
    sys.exit(1)
  lines = result_table(groups)
  if missing:
    lines += ["", *missing]
  cli.show("\n".join(lines))
  if output:
    write(lines, groups, output)


def write(
  lines: Sequence[str], groups: Sequence[results.Group], output: epath.Path
) -> None:
  """Write report.md and the plots.

  Args:
    lines: The report.
    groups: Finished runs, grouped over seeds.
    output: A directory.
  """
  text = "\n".join(lines) + "\n"
  (output / "report.md").write_bytes(text.encode(errors="backslashreplace"))
  try:
    from sam_jax.reports import plots  # matplotlib is slow to import
  except ModuleNotFoundError as error:
    if error.name != "matplotlib":
      raise
    cli.refuse("Plots need matplotlib: pip install 'sam-jax[analysis]'.")
  for path in plots.write_plots(groups, output):
    cli.show(f"Plot: {path}")


if __name__ == "__main__":
  cli.run(main)
