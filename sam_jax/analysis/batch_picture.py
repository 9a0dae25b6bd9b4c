"""A picture of a training batch: augmented images below their labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sam_jax.augment import pipeline
from sam_jax.datasets.catalog import DatasetSpec

_COLUMNS = 8
_TILE = 112  # pixels of the longer side of an image, at least
_MARGIN = 2
_FONT_SIZE, _LINE_HEIGHT = 13, 16


def draw_batch(
  batch: Mapping[str, np.ndarray], spec: DatasetSpec, names: Sequence[str]
) -> Image.Image:
  """Draw the images of a batch, each below the lines of `captions`.

  Args:
    batch: `image`, normalized, float [N, H, W, C]; `target` and `clean_label`
      as for `captions`.
    spec: The data set.
    names: Names of the classes.
  """
  return draw_grid(denormalize(batch["image"], spec), captions(batch, names))


def denormalize(images: np.ndarray, spec: DatasetSpec) -> np.ndarray:
  """Return uint8 images [N, H, W, 3] from normalized float ones [N, H, W, C].

  C is 1 or 3.
  """
  pixels = pipeline.denormalize(images, spec.mean, spec.std)
  return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def captions(
  batch: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[list[str]]:
  """Describe the labels of a batch.

  Args:
    batch: `target` float [N, classes] and, if labels may be wrong,
      `clean_label` int [N].
    names: Names of the classes.

  Returns:
    Lines for each example: its class, or its classes with their weights, and
    the true class if the label is wrong.
  """
  lines = []
  for target in batch["target"]:
    classes = np.argsort(-target, kind="stable")[: np.sum(target > 0)]
    weights = [f"{target[c]:.0%} " if target[c] < 1 else "" for c in classes]
    lines.append([w + names[c] for c, w in zip(classes, weights, strict=True)])
  for i, clean in enumerate(batch.get("clean_label", ())):
    if clean != np.argmax(batch["target"][i]):
      lines[i].append(f"true: {names[clean]}")
  return lines


def draw_grid(
  images: np.ndarray, captions: Sequence[Sequence[str]]
) -> Image.Image:
  """Draw images in rows of 8, each below its caption.

  Args:
    images: uint8 [N, H, W, 3], enlarged if they are small.
    captions: Lines of text for each image; long lines are cut.
  """
  height, width = images.shape[1:3]
  scale = max(1, -(-_TILE // max(height, width)))  # whole: pixels stay sharp
  size = width * scale, height * scale
  text_height = _LINE_HEIGHT * max(map(len, captions)) + _MARGIN
  cell_width = size[0] + 2 * _MARGIN
  cell_height = size[1] + text_height + 2 * _MARGIN
  rows = -(-len(images) // _COLUMNS)
  canvas = Image.new(
    "RGB", (_COLUMNS * cell_width, rows * cell_height), "white"
  )
  draw = ImageDraw.Draw(canvas)
  font = ImageFont.load_default(_FONT_SIZE)
  for i, (image, lines) in enumerate(zip(images, captions, strict=True)):
    row, column = divmod(i, _COLUMNS)
    x, y = column * cell_width + _MARGIN, row * cell_height + _MARGIN
    for number, line in enumerate(lines):
      text = _fit(line, font, size[0])
      draw.text((x, y + number * _LINE_HEIGHT), text, fill="black", font=font)
    tile = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
    canvas.paste(tile, (x, y + text_height))
  return canvas


def _fit(line: str, font: Any, width: int) -> str:
  """Cut a line to a width in pixels, and mark the cut.

  Blanks of Pillow's font are 3 pixels wide, too narrow for "68% 8".
  """
  text = line = line.replace(" ", "  ")
  while font.getlength(text) > width and line:
    line = line[:-1]
    text = f"{line.rstrip()}..."
  return text
