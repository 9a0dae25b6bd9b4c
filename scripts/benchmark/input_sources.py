"""Random data sets of the sizes of CIFAR-10 and ImageNet."""

import contextlib
import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

from sam_jax.datasets.catalog import dataset_spec
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.datasets.streaming import StreamingDataset, load_streaming
from sam_jax.datasets.tfds_files import tfds_builder

# ImageNet's commonest size. With these two, files take its mean of 110 kB.
PHOTO_HEIGHT, PHOTO_WIDTH = 375, 500
_JPEG_QUALITY, _SPECTRUM = 90, 1.1
IMAGE_SIZE = 224
_EVAL_BATCH = 128  # never read
_NUM_JPEGS = 256


def random_cifar(batch: int) -> InMemoryDataset:
  """Create random images, as many and as large as CIFAR-10's."""
  generator = np.random.default_rng(0)
  images = generator.integers(256, size=(50_000, 32, 32, 3), dtype=np.uint8)
  examples = images, generator.integers(10, size=50_000, dtype=np.int32)
  return InMemoryDataset(
    dataset_spec("cifar10"),
    examples,
    examples,
    batch_size=batch,
    eval_batch_size=_EVAL_BATCH,
    seed=0,
  )


def random_imagenet(
  directory: pathlib.Path, photos: list[bytes], batch: int
) -> StreamingDataset:
  """Prepare JPEGs through TFDS, from archives like those of ImageNet.

  Args:
    directory: An empty directory.
    photos: Contents of JPEGs.
    batch: Images of a batch.

  Returns:
    A data set of one class, whose training set repeats the photos.
  """
  count = max(_NUM_JPEGS, 4 * batch)
  synset = "n01440764"
  members = {
    f"{synset}_{i}.JPEG": photos[i % len(photos)] for i in range(count)
  }
  train = {f"{synset}.tar": _tar(members)}
  (directory / "ILSVRC2012_img_train.tar").write_bytes(_tar(train))
  validation = {"ILSVRC2012_val_00000001.JPEG": photos[0]}
  (directory / "ILSVRC2012_img_val.tar").write_bytes(_tar(validation))
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  spec = dataset_spec("imagenet2012")
  builder = tfds_builder(spec, str(directory / "tfds"))
  with contextlib.redirect_stdout(None):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=directory)
    )
  return load_streaming(
    spec.with_image_size(IMAGE_SIZE),
    data_dir=str(directory / "tfds"),
    validation_size=0,
    crops_at_random=True,
    batch_size=batch,
    eval_batch_size=_EVAL_BATCH,
    seed=0,
  )


def random_photo(generator: np.random.Generator) -> bytes:
  """Create a JPEG with the amplitude spectrum of photographs, about 1 / f."""
  rows = np.fft.fftfreq(PHOTO_HEIGHT)[:, None]
  columns = np.fft.rfftfreq(PHOTO_WIDTH)
  frequency = np.hypot(rows, columns)
  frequency[0, 0] = np.inf

  def field() -> np.ndarray:
    white = generator.normal(size=(2, *frequency.shape))
    wave = (white[0] + 1j * white[1]) / frequency**_SPECTRUM
    values = np.fft.irfft2(wave, (PHOTO_HEIGHT, PHOTO_WIDTH))
    return values / values.std()

  brightness = field()  # Channels of photographs differ little.
  channels = [128 + 55 * (brightness + field() / 4) for _ in range(3)]
  pixels = np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
  return file.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w") as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return file.getvalue()
