"""Compares finished runs: a table, and a picture of their curves.

python scripts/compare_runs.py runs/quickstart/sgd runs/quickstart/sam
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
from absl import app, flags
from absl import logging as absl_logging
from matplotlib import pyplot as plt

from sam_jax.analysis import trained_run as runs
from sam_jax.analysis.sharpness import m_sharpness
from sam_jax.config.schema import ConfigError

_OUTPUT = flags.DEFINE_string(
  "output", None, "Picture to write; default: curves.png beside the first run."
)
_RHO = flags.DEFINE_float("rho", 0.5, "Radius of the sharpness in the table.")
_M = flags.DEFINE_integer("m", 32, "Examples that share its perturbation.")


def main(argv: Sequence[str]) -> None:
  """Prints the table and writes the picture."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  workdirs = [pathlib.Path(name) for name in argv[1:]]
  if not workdirs:
    sys.exit("error: name the directories of the runs to compare")
  try:
    rows = [table_row(workdir) for workdir in workdirs]
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  sharpness = f"sharpness (rho {_RHO.value:g}, m {_M.value})"
  print_table(["run", "test error", "train error", sharpness], rows)
  output = _OUTPUT.value or workdirs[0].parent / "curves.png"
  plot_curves(workdirs, output)
  print(f"\nCurves: {output}")


def table_row(workdir: pathlib.Path) -> list[str]:
  """Last errors, and the sharpness on the labels that the run saw."""
  run = runs.load_run(workdir)
  rows = read_metrics(workdir)
  measured = m_sharpness(
    run.example_losses,
    run.params,
    run.examples("train"),
    _M.value,
    _RHO.value,
  )
  return [
    workdir.name,
    f"{last(rows, 'test/error_rate'):.1%}",
    f"{last(rows, 'train/error_rate'):.1%}",
    f"{measured.sharpness:.3f}",
  ]


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
  """The lines of metrics.jsonl."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def last(rows: list[dict[str, float]], tag: str) -> float:
  """The last value of a scalar."""
  return [row[tag] for row in rows if tag in row][-1]


def print_table(header: list[str], rows: list[list[str]]) -> None:
  """Prints a Markdown table."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  rule = ["-" * width for width in widths]
  for row in (header, rule, *rows):
    cells = (cell.ljust(w) for cell, w in zip(row, widths, strict=True))
    print(f"| {' | '.join(cells)} |")


def plot_curves(workdirs: list[pathlib.Path], output: pathlib.Path) -> None:
  """Draws test and training error over the steps, a line style for each run."""
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
  styles = ["--", "-", ":", "-."]
  for i, workdir in enumerate(workdirs):
    rows = read_metrics(workdir)
    for axis, tag in zip(axes, ("test", "train"), strict=True):
      points = [
        (row["step"], 100 * row[f"{tag}/error_rate"])
        for row in rows
        if f"{tag}/error_rate" in row
      ]
      axis.plot(
        *zip(*points, strict=True),
        styles[i % len(styles)],
        label=workdir.name,
        linewidth=2,
      )
  axes[0].set(title="Test (clean labels)", ylabel="Error (%)", ylim=(0, 100))
  axes[1].set(title="Training (as labelled)")
  for axis in axes:
    axis.set_xlabel("Step")
    axis.grid(alpha=0.3)
    axis.legend()
  figure.tight_layout()
  figure.savefig(output, dpi=150)


if __name__ == "__main__":
  app.run(main)
