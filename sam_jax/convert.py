"""Convert weights of any known source into a file for fine-tuning.

python -m sam_jax.convert --model=efficientnet_b0
  --input=/path/to/model.safetensors --output=efficientnet_b0.msgpack

docs/pretrained.md lists the sources. Every name and shape is compared with the
network's. The number of classes is that of the input. Exit code 2 if the input
does not fit.
"""

import sys
from typing import NoReturn

from absl import flags

from sam_jax.config import cli

flags.DEFINE_string("model", None, "Name of the network. Required.")
flags.DEFINE_string(
  "input", None, "File or directory with weights, or a run's. Required."
)
flags.DEFINE_string("output", None, "File to write. Required.")
flags.DEFINE_bool(
  "ema", True, "Take the moving averages if the input has them."
)


@cli.ends_at_interrupt
def main(argv: list[str]) -> None:
  """Convert the weights that the flags name."""
  cli.check_arguments(argv, "model", "input", "output")
  output = cli.make_file("output", flags.FLAGS.output)
  # Import late: wrong flags are reported without waiting for JAX.
  from sam_jax import buckets, models, paths
  from sam_jax.pretrained import fitting, flax_files
  from sam_jax.runs import files, signals, trained_weights
  from sam_jax.runs import logging as run_logging

  run_logging.show_on_stderr()
  name, source = flags.FLAGS.model, flags.FLAGS.input
  buckets.check(source, "--input")
  try:
    models.create_model(name, 1)  # refuses an unknown name before reading
    checkpoint = trained_weights.read_newest(
      source, "--input", use_ema=flags.FLAGS.ema
    )
    _, variables, report = fitting.load_network(name, checkpoint)
  except ValueError as error:
    cli.refuse(str(error))
  try:
    with signals.handled_by(_stop):  # a signal removes the unfinished file
      files.write_atomically(output, flax_files.serialize(variables))
  except Exception as error:  # gs:// clients raise errors of their own
    cli.refuse(
      f"--output={output} can't be written: {paths.describe_error(error)}."
    )
  cli.show(f"{report}\nWrote {output}")


def _stop(number: int, _: object) -> NoReturn:
  sys.exit(128 + number)


if __name__ == "__main__":
  cli.run(main)
