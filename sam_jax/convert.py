r"""Converts an official EfficientNet checkpoint into a file for fine-tuning.

    python -m sam_jax.convert --model=efficientnet_b0 \
      --input=/path/to/checkpoint_0 --output=efficientnet_b0.msgpack

Every name and shape is checked against the model.  The number of classes is
the checkpoint's own.  Exit code 2 and one line on stderr if that fails.
"""

import sys

import jax
import jax.numpy as jnp
from absl import app, flags

from sam_jax import models
from sam_jax.models import pretrained

_MODEL = flags.DEFINE_string("model", None, "Model name.", required=True)
_INPUT = flags.DEFINE_string(
  "input", None, "Official checkpoint file.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "File to write.", required=True)
_EMA = flags.DEFINE_bool(
  "ema", True, "Take moving averages if the checkpoint has them."
)


def convert(model_name: str, source: str, target: str, use_ema: bool) -> str:
  """Converts one file.

  Args:
    model_name: name of the architecture in `source`.
    source: official checkpoint, or a converted file.
    target: file to write.
    use_ema: take moving averages if the checkpoint has them.

  Returns:
    A line that says what was converted.

  Raises:
    OSError: if a file cannot be read or written.
    ValueError: if `source` is no checkpoint of the model.
  """
  checkpoint = pretrained.read_checkpoint(source, use_ema=use_ema)
  # Without a linear layer any number does: the names will not match anyway.
  num_classes = checkpoint.num_classes() or 1000
  model = models.create_model(model_name, num_classes)
  # Shapes of parameters do not depend on the image size: a small one is fast.
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  keys = {"params": jax.random.key(0)}
  template = jax.eval_shape(lambda x: model.init(keys, x, train=False), image)
  variables, report = pretrained.load_pretrained(checkpoint, template)
  pretrained.save_pretrained(target, variables)
  return report


def main(argv: list[str]) -> None:
  """Converts as the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
  try:
    report = convert(_MODEL.value, _INPUT.value, _OUTPUT.value, _EMA.value)
  except (OSError, ValueError) as error:
    print(f"convert_efficientnet: {error}", file=sys.stderr)
    sys.exit(2)
  print(f"{report}\nWrote {_OUTPUT.value}")


if __name__ == "__main__":
  app.run(main)
