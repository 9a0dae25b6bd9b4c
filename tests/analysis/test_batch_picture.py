"""The picture of a batch: its captions, and the place of its images."""

import dataclasses

import numpy as np
import pytest
from PIL import ImageDraw

from sam_jax.analysis import batch_picture
from sam_jax.datasets import catalog

CLASSES = ["airplane", "automobile", "truck"]


@pytest.fixture
def drawn(monkeypatch):
  """Returns a list of the texts that are drawn, with their places."""
  texts, draw_text = [], ImageDraw.ImageDraw.text

  def record(draw, xy, text, **kwargs):
    texts.append((xy, text, kwargs["font"].getlength(text)))
    return draw_text(draw, xy, text, **kwargs)

  monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
  return texts


def test_captions_of_mixed_and_wrong_labels():
  targets = np.array([[1, 0, 0], [0.3, 0.7, 0], [0, 0, 1]], np.float32)
  batch = {"target": targets, "clean_label": np.array([0, 1, 1])}
  assert batch_picture.captions(batch, CLASSES) == [
    ["airplane"],
    ["70% automobile", "30% airplane"],
    ["truck", "true: automobile"],
  ]


def test_captions_of_labels_that_are_right():
  batch = {"target": np.eye(3, dtype=np.float32)}
  assert batch_picture.captions(batch, CLASSES) == [[c] for c in CLASSES]


def test_normalization_is_undone():
  spec = dataclasses.replace(
    catalog.dataset_spec("digits"), mean=(0.25,), std=(0.5,)
  )
  images = np.array([-1, -0.5, 0.1, 1.5, 2], np.float32).reshape(1, 1, 5, 1)
  pixels = batch_picture.denormalize(images, spec)
  assert pixels.dtype == np.uint8
  assert pixels.shape == (1, 1, 5, 3)
  for channel in range(3):
    assert pixels[0, 0, :, channel].tolist() == [0, 0, 77, 255, 255]


def test_each_image_is_below_its_caption(drawn):
  """Ten images of one color and 56 pixels, twice as large in the picture."""
  colors = np.arange(30, dtype=np.uint8).reshape(10, 1, 1, 3)
  images = np.broadcast_to(colors, (10, 56, 56, 3))
  captions = [[f"{i} one", "two"] for i in range(10)]
  picture = np.array(batch_picture.draw_grid(images, captions))
  assert picture.shape == (2 * 150, 8 * 116, 3)
  for i, color in enumerate(colors):
    y, x = 150 * (i // 8), 116 * (i % 8)
    (first, second), drawn[:2] = drawn[:2], []
    # Two blanks: one is too narrow to see in this font.
    assert first[:2] == ((x + 2, y + 2), f"{i}  one")
    assert second[:2] == ((x + 2, y + 18), "two")
    tile = picture[y + 36 : y + 148, x + 2 : x + 114]
    assert (tile == color).all()
    caption = picture[y + 2 : y + 36, x + 2 : x + 114]
    assert caption.min() == 0  # black on white
    assert caption.max() == 255


def test_captions_fit_above_their_images(drawn):
  images = np.zeros((1, 112, 112, 3), np.uint8)
  short, long = "70% automobile", "30% " + "great white pelican " * 3
  batch_picture.draw_grid(images, [[short, long]])
  (_, first, _), (_, second, width) = drawn
  assert first == "70%  automobile"
  assert second.startswith("30%  great  w")
  assert second.endswith("...")
  assert 90 < width <= 112
