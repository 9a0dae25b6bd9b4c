"""Other ways from JPEGs to batches of random crops, to compare with ours.

All decode the same files, cut the same windows out, drawn in advance, and
resize them to the same size by bicubic interpolation. They keep the files in
memory and draw nothing, except for Grain, which reads them in random order.
"""

import importlib
import io
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from sam_jax.datasets import crops
from scripts.benchmark.input_sources import (
  IMAGE_SIZE,
  PHOTO_HEIGHT,
  PHOTO_WIDTH,
)

_SHAPE = (IMAGE_SIZE, IMAGE_SIZE)
_NUM_WINDOWS = 1024

# (JPEG, its position in a stream) -> uint8 [size, size, 3]
Crop = Callable[[bytes, int], np.ndarray]
# (photos, batch, directory for files) -> an endless stream of batches
Peer = Callable[[list[bytes], int, pathlib.Path], Iterator[Any]]


def peers() -> tuple[dict[str, Peer], list[str]]:
  """Return the peers whose libraries are installed, and names of the others."""
  found: dict[str, Peer] = {}
  missing = []
  for name, (modules, peer) in _PEERS.items():
    try:
      for module in modules:
        importlib.import_module(module)
      found[name] = peer
    except (ImportError, OSError):
      missing.append(name)
  return found, missing


def _tensorflow(
  photos: list[bytes], batch: int, directory: pathlib.Path
) -> Iterator[Any]:
  """Decode and resize in the operations that our stream ends with."""
  del directory
  import tensorflow as tf

  # Elements of a cache are shared, where an index would copy the JPEG.
  encoded = tf.data.Dataset.from_tensor_slices(photos).cache().repeat()
  windows = tf.data.Dataset.from_tensor_slices(_windows()).repeat()

  def load(photo: Any, window: Any) -> Any:
    image = tf.image.decode_and_crop_jpeg(photo, window, channels=3)
    return crops.resize(image, IMAGE_SIZE)

  images = tf.data.Dataset.zip(encoded, windows).map(
    load, num_parallel_calls=tf.data.AUTOTUNE
  )
  yield from images.batch(batch).prefetch(2).as_numpy_iterator()


def _grain(
  photos: list[bytes], batch: int, directory: pathlib.Path
) -> Iterator[Any]:
  """Read records of ArrayRecord in random order; decode them with OpenCV."""
  import grain
  from array_record.python import array_record_module

  path = str(directory / "photos.array_record")
  writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
  for photo in photos:
    writer.write(photo)
  writer.close()
  crop = _opencv_crop()

  def load(record: bytes, random: np.random.Generator) -> np.ndarray:
    return crop(record, int(random.integers(_NUM_WINDOWS)))

  images = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(path))
  images = images.seed(0).shuffle().repeat().random_map(load).batch(batch)
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
  yield from images.to_iter_dataset(options)


def _opencv(
  photos: list[bytes], batch: int, directory: pathlib.Path
) -> Iterator[Any]:
  del directory
  return _one_by_one(_opencv_crop(), photos, batch)


def _opencv_crop() -> Crop:
  import cv2

  cv2.setNumThreads(1)
  windows = _windows()

  def crop(encoded: bytes, number: int) -> np.ndarray:
    data = np.frombuffer(encoded, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    part = image[_slices(windows[number % _NUM_WINDOWS])]
    return cv2.resize(part, _SHAPE, interpolation=cv2.INTER_CUBIC)

  return crop


def _turbojpeg(
  photos: list[bytes], batch: int, directory: pathlib.Path
) -> Iterator[Any]:
  """Decode with libjpeg-turbo alone; resize with OpenCV."""
  del directory
  import cv2
  import turbojpeg

  cv2.setNumThreads(1)
  decoder, windows = turbojpeg.TurboJPEG(), _windows()

  def crop(encoded: bytes, number: int) -> np.ndarray:
    image = decoder.decode(encoded, pixel_format=turbojpeg.TJPF_RGB)
    part = image[_slices(windows[number % _NUM_WINDOWS])]
    return cv2.resize(part, _SHAPE, interpolation=cv2.INTER_CUBIC)

  return _one_by_one(crop, photos, batch)


def _pillow(
  photos: list[bytes], batch: int, directory: pathlib.Path
) -> Iterator[Any]:
  """Decode and resize like the transformations of torchvision."""
  del directory
  windows = _windows()

  def crop(encoded: bytes, number: int) -> np.ndarray:
    row, column, height, width = windows[number % _NUM_WINDOWS]
    box = (column, row, column + width, row + height)
    image = Image.open(io.BytesIO(encoded)).convert("RGB").crop(box)
    return np.asarray(image.resize(_SHAPE, Image.Resampling.BICUBIC))

  return _one_by_one(crop, photos, batch)


def _one_by_one(
  crop: Crop, photos: list[bytes], batch: int
) -> Iterator[np.ndarray]:
  for start in itertools.count(step=batch):
    numbers = range(start, start + batch)
    yield np.stack([crop(photos[i % len(photos)], i) for i in numbers])


def _windows() -> np.ndarray:
  """Draw windows as our stream does, int32 [_NUM_WINDOWS, 4].

  Returns:
    Row, column, height and width of each.
  """
  import tensorflow as tf

  shape = (PHOTO_HEIGHT, PHOTO_WIDTH, 3)
  draw = tf.function(lambda seed: crops.random_window(shape, IMAGE_SIZE, seed))
  seeds = [tf.constant([0, i], tf.int64) for i in range(_NUM_WINDOWS)]
  return np.stack([draw(seed).numpy() for seed in seeds])


def _slices(window: np.ndarray) -> tuple[slice, slice]:
  row, column, height, width = window
  return slice(row, row + height), slice(column, column + width)


_PEERS: dict[str, tuple[tuple[str, ...], Peer]] = {
  "TensorFlow's decode, crop, resize alone": ((), _tensorflow),
  "OpenCV": (("cv2",), _opencv),
  "PyTurboJPEG and OpenCV": (("turbojpeg", "cv2"), _turbojpeg),
  "Grain, ArrayRecord and OpenCV": (("grain", "array_record", "cv2"), _grain),
  "Pillow": ((), _pillow),
}
