"""Convert an official EfficientNet checkpoint into a file for fine-tuning.

python -m sam_jax.convert --model=efficientnet_b0
  --input=/path/to/checkpoint_0 --output=efficientnet_b0.msgpack

Every name and shape is compared with the network's. The number of classes is
that of the checkpoint. Exit code 2 if the checkpoint does not fit.
"""

from absl import flags

from sam_jax.config import cli

flags.DEFINE_string("model", None, "Name of the network.")
flags.DEFINE_string("input", None, "Official checkpoint file.")
flags.DEFINE_string("output", None, "File to write.")
flags.DEFINE_bool(
  "ema", True, "Take the moving averages if the checkpoint has them."
)


def main(argv: list[str]) -> None:
  """Convert the checkpoint that the flags name."""
  cli.check_arguments(argv, "model", "input", "output")
  output = cli.make_file("output", flags.FLAGS.output)
  # Import late: wrong flags are reported without waiting for JAX.
  from sam_jax.models import pretrained
  from sam_jax.runs import files
  from sam_jax.runs import logging as run_logging

  run_logging.show_on_stderr()
  try:
    _, variables, report = pretrained.load_network(
      flags.FLAGS.model, flags.FLAGS.input, use_ema=flags.FLAGS.ema
    )
    files.write_atomically(output, pretrained.to_bytes(variables))
  except ValueError as error:
    cli.refuse(str(error))
  except OSError as error:
    cli.refuse(f"{error.filename}: {error.strerror}.")
  print(f"{report}\nWrote {output}")


if __name__ == "__main__":
  cli.run(main)
