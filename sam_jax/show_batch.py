"""Shows what a network sees: a grid of augmented training images.

python -m sam_jax.show_batch --config=configs/digits.py --output=batch.png

The images are those of the first training step, normalisation undone; above
each is its label, or both labels and their weights where two are mixed, and the
true class where the label is known to be wrong.
"""

import pathlib

import jax
import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw

from sam_jax.config import cli as command_line
from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog, tfds_files
from sam_jax.runs import logging as run_logging
from sam_jax.training import build, input_pipeline

_CONFIG = command_line.define_config()
_OUTPUT = flags.DEFINE_string("output", "batch.png", "The PNG file to write.")
_STEP = flags.DEFINE_integer("step", 0, "Training step to show.", 0)
_COUNT = flags.DEFINE_integer("count", 64, "How many images to show.", 1)

_COLUMNS = 8
_SIDE = 96  # of a shown image, in pixels, at least
_LINE_HEIGHT = 12


def main(argv: list[str]) -> None:
  """Writes the grid that the flags ask for."""
  if argv[1:]:
    command_line.refuse(f"Unexpected arguments: {' '.join(argv[1:])}")
  if not _CONFIG.value:
    command_line.refuse("--config is missing.")
  output = pathlib.Path(_OUTPUT.value)
  if output.suffix != ".png" or output.is_dir():
    command_line.refuse(f"--output={output} must be a .png file.")
  command_line.make_directory("output", output.parent)
  run_logging.show_on_stderr()
  config, step = _CONFIG.value, _STEP.value
  try:
    config = build.validate(config, jax.device_count())
    dataset = input_pipeline.create_dataset(config)
  except (ConfigError, catalog.DatasetError) as error:
    command_line.refuse(str(error))
  _, batch = next(input_pipeline.train_batches(config, dataset, step, step + 1))
  batch = jax.device_get(batch)
  batch = {k: np.concatenate(v)[: _COUNT.value] for k, v in batch.items()}
  names = class_names(dataset.spec, config.dataset.data_dir)
  texts = describe(batch, names)
  images = denormalise(batch["image"], dataset.spec)
  grid(images, texts).save(output)
  print(f"{len(texts)} images of step {step}: {output}")


def denormalise(images: np.ndarray, spec: catalog.DatasetSpec) -> np.ndarray:
  """Float images [N, H, W, C] as networks see them -> uint8 RGB images."""
  pixels = (images * np.array(spec.std) + np.array(spec.mean)) * 255
  pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
  return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def class_names(spec: catalog.DatasetSpec, data_dir: str | None) -> list[str]:
  """The names that TFDS has for the classes, or their numbers."""
  builder = tfds_files.prepared_builder(spec, data_dir)
  return builder.info.features[catalog.CLEAN_LABEL].names


def describe(batch: dict[str, np.ndarray], names: list[str]) -> list[list[str]]:
  """Describes the examples of a batch in a few short lines each.

  Args:
    batch: `target` float [N, classes] and, where labels may be wrong,
      `clean_label` int [N].
    names: Of the classes.

  Returns:
    Of each example, its classes, with their weights if there are two, and the
    true class if its label is wrong.
  """
  texts = []
  for target in batch["target"]:
    classes = np.argsort(-target, kind="stable")[: np.sum(target > 0)]
    weights = [f"{target[c]:.0%} " if target[c] < 1 else "" for c in classes]
    texts.append([w + names[c] for c, w in zip(classes, weights, strict=True)])
  for i, clean in enumerate(batch.get("clean_label", ())):
    if clean != np.argmax(batch["target"][i]):
      texts[i].append(f"truly {names[clean]}")
  return texts


def grid(images: np.ndarray, texts: list[list[str]]) -> Image.Image:
  """Draws uint8 images [N, H, W, 3] in rows, each below its lines of text."""
  height, width = images.shape[1:3]
  scale = max(1, -(-_SIDE // max(height, width)))  # whole: pixels stay sharp
  text_height = _LINE_HEIGHT * max(map(len, texts)) + 2
  cell_width = width * scale + 4
  cell_height = height * scale + text_height + 4
  rows = -(-len(images) // _COLUMNS)
  canvas = Image.new(
    "RGB", (_COLUMNS * cell_width, rows * cell_height), "white"
  )
  draw = ImageDraw.Draw(canvas)
  for i, (image, lines) in enumerate(zip(images, texts, strict=True)):
    row, column = divmod(i, _COLUMNS)
    x, y = column * cell_width + 2, row * cell_height + 2
    for number, line in enumerate(lines):
      while draw.textlength(line) > cell_width - 4:
        line = line[:-1]
      draw.text((x, y + number * _LINE_HEIGHT), line, fill="black")
    tile = Image.fromarray(image).resize(
      (width * scale, height * scale), Image.Resampling.NEAREST
    )
    canvas.paste(tile, (x, y + text_height))
  return canvas


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
