"""Small folders of images for tests."""

import io

import numpy as np
from PIL import Image


def picture(seed, size=(40, 56), mode="RGB"):
  """Return a smooth random picture, (height, width)."""
  random = np.random.default_rng(seed)
  coarse = random.integers(256, size=(4, 4, 3), dtype=np.uint8)
  image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
  return image.convert(mode)


def encoded(image, kind, **options):
  """Return a picture as a file."""
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def write(root, names, size=(40, 56)):
  """Write pictures of these names, in the format of their extension."""
  for i, name in enumerate(names):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(i, size).save(path)


def two_classes(root, count=6, size=(40, 56)):
  """Write train/ and val/ with `count` cats and dogs each."""
  write(
    root,
    [
      f"{split}/{name}/{i}.{'jpg' if i % 2 else 'png'}"
      for split in ("train", "val")
      for name in ("cat", "dog")
      for i in range(count)
    ],
    size,
  )
