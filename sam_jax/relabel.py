"""Labels the training set by what a run has learnt.

python -m sam_jax.relabel --workdir=runs/noisy --output=labels/noisy.npy

The paper's "Bootstrap" against noisy labels: train a network, relabel its
training set with its predictions, and train another from scratch on these,
with --config.dataset.label_file=labels/noisy.npy.
"""

import pathlib

import numpy as np
from absl import app, flags
from etils import epath

from sam_jax.analysis import trained_run as runs
from sam_jax.config import cli as command_line
from sam_jax.config.schema import ConfigError
from sam_jax.datasets.catalog import DatasetError
from sam_jax.datasets.labels import write_labels
from sam_jax.runs import logging as run_logging

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUTPUT = flags.DEFINE_string("output", None, "The .npy file to write.")


def main(argv: list[str]) -> None:
  """Writes the labels that the flags ask for."""
  if argv[1:]:
    command_line.refuse(f"Unexpected arguments: {' '.join(argv[1:])}")
  for flag in (_WORKDIR, _OUTPUT):
    if not flag.value:
      command_line.refuse(f"--{flag.name} is missing.")
  if epath.Path(_OUTPUT.value).is_dir():
    command_line.refuse(f"--output={_OUTPUT.value} is a directory.")
  if "://" not in _OUTPUT.value:
    command_line.make_directory("output", pathlib.Path(_OUTPUT.value).parent)
  run_logging.show_on_stderr()
  try:
    run = runs.restore_run(_WORKDIR.value)
    labels = runs.predicted_labels(run)
  except (ConfigError, DatasetError) as error:
    command_line.refuse(str(error))
  write_labels(_OUTPUT.value, labels)
  clean = np.concatenate(
    [b["label"][b["mask"] > 0] for b in run.dataset.eval_batches("train")]
  )
  wrong = np.mean(labels != clean)
  print(f"{len(labels)} labels, {wrong:.1%} wrong: {_OUTPUT.value}")


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
