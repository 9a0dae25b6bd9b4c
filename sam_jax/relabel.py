"""Label the training set with the predictions of a trained network.

python -m sam_jax.relabel --workdir=runs/noisy --output=labels/noisy.npy

The method "Bootstrap" of the paper against noisy labels: train a network, label
its training set with its predictions, and train another network from scratch on
these labels, with --config.dataset.label_file=labels/noisy.npy.
"""

import numpy as np
from absl import flags

from sam_jax.analysis import trained_run
from sam_jax.config import cli
from sam_jax.datasets.labels import write_labels
from sam_jax.runs import logging as run_logging

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run. Required."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "The .npy file to write. Required."
)


def main(argv: list[str]) -> None:
  """Write the labels that a run predicts."""
  cli.check_arguments(argv, "workdir", "output")
  output = cli.make_file("output", str(_OUTPUT.value))
  run_logging.show_on_stderr()
  run = trained_run.load_run(str(_WORKDIR.value))
  labels = trained_run.predicted_labels(run)
  write_labels(output, labels)
  wrong = np.mean(labels != trained_run.clean_labels(run))
  cli.show(f"{len(labels)} labels, {wrong:.1%} wrong: {output}")


if __name__ == "__main__":
  cli.run(main)
