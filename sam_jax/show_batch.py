"""Show what a network sees: a grid of augmented training images.

python -m sam_jax.show_batch --config=configs/digits.py --output=batch.png

The images are those of the first training step, without normalization. Above
each image is its label, or both labels and their weights where two images are
mixed, and the true class where the label is known to be wrong.
"""

import jax
import numpy as np
from absl import flags

from sam_jax import wording
from sam_jax.analysis import batch_picture
from sam_jax.config import cli
from sam_jax.datasets.class_names import class_names
from sam_jax.runs import logging as run_logging
from sam_jax.training import build, input_pipeline

_CONFIG = cli.define_config()
_OUTPUT = flags.DEFINE_string("output", "batch.png", "The PNG file to write.")
_STEP = flags.DEFINE_integer("step", 0, "Training step to show.", 0, 2**31 - 1)
_COUNT = flags.DEFINE_integer("count", 64, "Number of images to show.", 1)


def main(argv: list[str]) -> None:
  """Write the grid that the flags describe."""
  cli.check_arguments(argv, "config")
  if not _OUTPUT.value.endswith(".png"):
    cli.refuse(f"--output={_OUTPUT.value} must be a .png file.")
  output = cli.make_file("output", _OUTPUT.value)
  run_logging.show_on_stderr()
  config, step = build.validate(_CONFIG.value, jax.device_count()), _STEP.value
  dataset = input_pipeline.create_dataset(config)
  names = class_names(dataset.spec, config.dataset.data_dir)
  _, shards = next(
    input_pipeline.train_batches(config, dataset, step, step + 1)
  )
  batch = {
    name: np.concatenate(parts)[: _COUNT.value]
    for name, parts in jax.device_get(shards).items()
  }
  picture = batch_picture.draw_batch(batch, dataset.spec, names)
  with output.open("wb") as file:
    picture.save(file, "PNG")
  cli.show(
    f"{wording.count(len(batch['image']), 'image')} of step {step}: {output}"
  )


if __name__ == "__main__":
  cli.run(main)
