"""Write a small folder of real photographs, cut from installed packages.

python -m scripts.photos DIR

DIR/train and DIR/val have a directory for each class. The classes are parts of
three photographs that scikit-learn and Matplotlib ship: a temple, a flower and
a portrait. Training and validation images are cut from different fields of
them. Sizes and file formats vary, as they do in folders that people collect.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

from sam_jax.config import cli

_FORMATS = ("jpg", "png", "webp")
_COUNTS = {"train": 40, "val": 16}  # images of each class
_FIELDS = (3, 4)  # rows and columns of a photograph


def photographs() -> dict[str, pathlib.Path]:
  """Return the file of each class."""
  import matplotlib
  import sklearn.datasets

  images = pathlib.Path(sklearn.datasets.__file__).parent / "images"
  samples = pathlib.Path(matplotlib.get_data_path()) / "sample_data"
  return {
    "flower": images / "flower.jpg",
    "portrait": samples / "grace_hopper.jpg",
    "temple": images / "china.jpg",
  }


def write(directory: pathlib.Path, seed: int = 0) -> None:
  """Write directory/{train,val}/CLASS/*.{jpg,png,webp}."""
  random = np.random.default_rng(seed)
  for name, file in photographs().items():
    with Image.open(file) as opened:
      photo = opened.convert("RGB")
    for split, count in _COUNTS.items():
      folder = directory / split / name
      folder.mkdir(parents=True, exist_ok=True)
      for i in range(count):
        part = _cut(photo, split, random)
        part.save(folder / f"{i:02}.{_FORMATS[i % len(_FORMATS)]}")


def _cut(
  photo: Image.Image, split: str, random: np.random.Generator
) -> Image.Image:
  """Return a random part of a random field that belongs to a split."""
  rows, columns = _FIELDS
  fields = [
    (row, column)
    for row in range(rows)
    for column in range(columns)
    if ((row + column) % 3 == 0) == (split == "val")
  ]
  row, column = fields[random.integers(len(fields))]
  height, width = photo.height // rows, photo.width // columns
  size = random.integers(80, [height, width])
  top = row * height + random.integers(height - size[0] + 1)
  left = column * width + random.integers(width - size[1] + 1)
  return photo.crop((left, top, left + size[1], top + size[0]))


if __name__ == "__main__":
  if len(sys.argv) != 2:
    cli.refuse("Name the directory: python -m scripts.photos DIR")
  write(pathlib.Path(sys.argv[1]))
  print(f"Wrote {sum(_COUNTS.values()) * len(photographs())} images.")
