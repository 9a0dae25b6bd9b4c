"""Data sets of image files: examined once, then in memory or streamed."""

import dataclasses
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any, TypeVar

import numpy as np
from etils import epath

from sam_jax import paths, wording
from sam_jax.datasets import (
  array_cache,
  bucket_files,
  catalog,
  image_folder,
  labels,
  pillow_images,
  tfds_files,
)
from sam_jax.datasets.catalog import DatasetError, DatasetSpec
from sam_jax.datasets.file_lists import Files, error
from sam_jax.datasets.image_folder import ImageFolder, Images
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.datasets.pillow_images import BROKEN, FOR_PILLOW
from sam_jax.datasets.streaming import Crop, Load, StreamingDataset

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CACHE = "~/.cache/sam_jax/image_folders"
_CACHE_VERSION = 1  # of what `_examine` and `_decode` store
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class ImageRecords:
  """Images of a split for a stream; a `streaming.Source`."""

  images: Images
  is_for_pillow: np.ndarray  # bool [N]

  remedy = "Repair the file or remove it, and start again"

  def __len__(self) -> int:
    return len(self.images)

  def describe(self, example: int) -> str:
    """Return the path of an example."""
    return self.images.files.paths[example]

  def locate(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers int32 [n] of examples [n] as files, and offsets 0."""
    return examples.astype(np.int32), np.zeros(len(examples), np.int64)

  def load_fn(self, crop: Crop, size: int) -> Load:
    """Return the function that `streaming.Source.load_fn` describes."""
    import tensorflow as tf

    files = self.images.files.paths
    names = tf.constant(files)
    is_for_pillow = tf.constant(self.is_for_pillow | paths.is_remote(files[0]))
    values = tf.constant(self.images.labels, tf.int32)

    def convert(name: Any) -> bytes:
      encoded = read_file(np.asarray(name).item().decode())
      return pillow_images.as_bmp(encoded)

    def read_for_pillow(name: Any) -> Any:
      encoded = tf.numpy_function(convert, [name], tf.string)
      return tf.ensure_shape(encoded, [])

    def load(example: Any, file: Any, offset: Any, seed: Any) -> dict[str, Any]:
      del offset
      encoded = tf.cond(
        is_for_pillow[file],
        lambda: read_for_pillow(names[file]),
        lambda: tf.io.read_file(names[file]),
      )
      image = crop(encoded, size, seed)
      return {"image": image, "label": values[file], "example": example}

    return load


def load(
  spec: DatasetSpec,
  *,
  data_dir: str,
  validation_size: int,
  split_seed: int,
  skips_broken: bool,
  crops_at_random: bool,
  labels_path: epath.PathLike | None = None,
  noise_rate: float = 0.0,
  noise_kind: str = "symmetric",
  noise_seed: int = 0,
  **sampling: Any,
) -> InMemoryDataset | StreamingDataset:
  """Load the images of a directory or of a CSV file.

  Args:
    spec: The data set; its storage says how.
    data_dir: See `image_folder.find`.
    validation_size: See `image_folder.find`.
    split_seed: See `image_folder.find`.
    skips_broken: True to leave out files that can't be decoded.
    crops_at_random: See `StreamingDataset`.
    labels_path: See `labels.read_labels`; None for the labels of the files.
    noise_rate: See `labels.corrupt_labels`.
    noise_kind: See `labels.corrupt_labels`.
    noise_seed: See `labels.corrupt_labels`.
    **sampling: The keyword arguments of `Sampler`.

  Raises:
    DatasetError: Files are missing or broken, or do not fit the request.
  """
  folder = image_folder.find(
    data_dir, validation_size=validation_size, split_seed=split_seed
  )
  folder, arrays = examined(
    folder,
    spec,
    skips_broken=skips_broken,
    remedy="Repair or remove them, or set config.dataset.broken_images ="
    " 'skip'",
  )
  folder.check()  # again: a class may have had broken images only
  given, clean = None, folder.train.labels
  if labels_path:
    given = labels.read_labels(labels_path, len(clean), spec.num_classes)
  elif noise_rate > 0:
    given = labels.corrupt_labels(
      clean, spec.num_classes, noise_rate, noise_kind, noise_seed
    )
  return dataset_of(
    folder, arrays, spec, given, crops_at_random=crops_at_random, **sampling
  )


def dataset_of(
  folder: ImageFolder,
  arrays: array_cache.Arrays,
  spec: DatasetSpec,
  train_labels: np.ndarray | None = None,
  *,
  crops_at_random: bool = False,
  **sampling: Any,
) -> InMemoryDataset | StreamingDataset:
  """Return the batches of images that `examined` returned.

  Args:
    folder: The data set, its training images first.
    arrays: `kind` int [N] and, for images in memory, `image`.
    spec: How the network sees it.
    train_labels: Labels int32 [n] to train on instead of the true ones.
    crops_at_random: See `StreamingDataset`.
    **sampling: The keyword arguments of `Sampler`.
  """
  count = len(folder.train)
  dataset: InMemoryDataset | StreamingDataset
  if spec.storage == catalog.STREAM:
    tfds_files.hide_accelerators_from_tensorflow()
    is_for_pillow = arrays["kind"] == FOR_PILLOW
    dataset = StreamingDataset(
      spec,
      ImageRecords(folder.train, is_for_pillow[:count]),
      ImageRecords(folder.test, is_for_pillow[count:]),
      crops_at_random=crops_at_random,
      train_labels=train_labels,
      **sampling,
    )
  else:
    clean = folder.train.labels
    given = clean if train_labels is None else train_labels
    dataset = InMemoryDataset(
      spec,
      (arrays["image"][:count], given),
      (arrays["image"][count:], folder.test.labels),
      clean_train_labels=None if train_labels is None else clean,
      **sampling,
    )
  dataset.folder = folder
  return dataset


def examined(
  folder: ImageFolder, spec: DatasetSpec, *, skips_broken: bool, remedy: str
) -> tuple[ImageFolder, array_cache.Arrays]:
  """Decode every image once, and keep what was found.

  Args:
    folder: The data set.
    spec: How the network sees it.
    skips_broken: True to leave out files that can't be decoded.
    remedy: What to do about them otherwise, for a message.

  Returns:
    The data set without them; arrays with an entry for each image, first those
    of the training set: `kind`, see `pillow_images.examine`, and, for images in
    memory, `image` uint8 [N, H, W, C].

  Raises:
    DatasetError: A file can't be read; or one is broken, and not skipped.
  """
  files = folder.train.files.with_others(folder.test.files)
  # Sorted: what is kept serves every split of the same files.
  names, order = files.names, np.argsort(np.array(files.names))
  places = np.argsort(order)
  arrays = _arrays_of(files.take(order), spec)
  found = {key: array[places] for key, array in arrays.items()}
  is_broken = found["kind"] == BROKEN
  if not is_broken.any():
    return folder, found
  broken = [names[int(i)] for i in np.flatnonzero(is_broken)]
  reasons = _reasons(folder, broken, spec)
  for name, reason in reasons.items():
    logger.warning("Broken image %s/%s: %s.", folder.root, name, reason)
  if not skips_broken:
    shown = ", ".join(f"{n} ({r})" for n, r in list(reasons.items())[:_NAMED])
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    raise error(
      folder.root,
      f"{wording.part(len(broken), len(names), 'image')} broken: {shown}{more}."
      f" {remedy}.",
    )
  left = {key: array[~is_broken] for key, array in found.items()}
  return folder.without(reasons), left


def _arrays_of(files: Files, spec: DatasetSpec) -> array_cache.Arrays:
  """Return `kind` and maybe `image` of files, from the cache if it has them."""
  shape = spec.shape_in_memory if spec.storage == catalog.IN_MEMORY else None
  form = "x".join(map(str, shape)) if shape else "stream"
  place = zlib.crc32("\n".join([str(files.root), *files.names]).encode())
  cache = paths.resolve(_CACHE) / f"{place:08x}_{form}"
  content = files.sizes.tobytes() + files.versions.tobytes()
  source = [_CACHE_VERSION, len(files), zlib.crc32(content)]
  found = array_cache.read_arrays(cache, source)
  if found is None:
    images = wording.count(len(files), "image")
    logger.info("Decoding %s of %s, once.", images, files.root)
    found = _decode(files, shape) if shape else _examine(files)
    array_cache.write_arrays(cache, found, source)
  return found


def _examine(files: Files) -> array_cache.Arrays:
  def kind(path: str) -> int:
    return pillow_images.examine(read_file(path))[0]

  found = list(_in_threads(kind, files.paths))
  return {"kind": np.array(found, np.uint8)}


def _decode(files: Files, shape: tuple[int, int, int]) -> array_cache.Arrays:
  def decode(path: str) -> np.ndarray | None:
    return pillow_images.decode_to_fit(read_file(path), shape)[0]

  images = np.zeros((len(files), *shape), np.uint8)
  kinds = np.full(len(files), FOR_PILLOW, np.uint8)
  for i, image in enumerate(_in_threads(decode, files.paths)):
    if image is None:
      kinds[i] = BROKEN
    else:
      images[i] = image
  return {"kind": kinds, "image": images}


def _reasons(
  folder: ImageFolder, names: Sequence[str], spec: DatasetSpec
) -> dict[str, str]:
  """Return why files can't be decoded, by name."""
  nothing = np.zeros(len(names), np.int64)
  files = Files(folder.root, names, nothing, nothing)
  shape = spec.shape_in_memory

  def reason(path: str) -> str:
    return pillow_images.decode_to_fit(read_file(path), shape)[1]

  return dict(zip(names, _in_threads(reason, files.paths), strict=True))


def _in_threads(
  function: Callable[[str], T], arguments: Sequence[str]
) -> Iterable[T]:
  """Call a function for all arguments, in order; Pillow frees Python's lock."""
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    step = 1024  # an error must not wait for all files
    for start in range(0, len(arguments), step):
      yield from pool.map(function, arguments[start : start + step])


def read_file(path: str) -> bytes:
  """Read a file, local or in a bucket.

  Raises:
    DatasetError: It can't be read, which says nothing about its content.
  """
  try:
    if paths.is_remote(path):
      return bucket_files.read_file(path)
    with open(path, "rb") as file:
      return file.read()
  except (OSError, RuntimeError) as problem:
    cause = paths.describe_error(problem)
    raise DatasetError(f"Image {path} can't be read: {cause}.") from problem
