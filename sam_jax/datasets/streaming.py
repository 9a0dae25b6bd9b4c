"""Large data sets: decoded, cropped and resized by the host, step by step.

The host sends uint8 images of the network's size; the device does the rest.

Grain with ArrayRecord was measured and not adopted: it is not faster, it cannot
read the TFRecords that users have prepared, and OpenCV's center crops differ
from the official release's. docs/data.md, "Speed of decoding", has the numbers.
"""

import atexit
import contextlib
import dataclasses
import itertools
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import numpy as np
from etils import epath

from sam_jax import paths
from sam_jax.datasets import crops, labels, tfds_files, tfrecords
from sam_jax.datasets.catalog import DatasetError, DatasetSpec
from sam_jax.datasets.image_folder import ImageFolder
from sam_jax.datasets.in_memory import Batch, num_left_to_train
from sam_jax.datasets.sampler import Sampler

# Operations of TensorFlow: (encoded image, size, seed) -> uint8 image, and
# (example, file, offset, seed) -> what a batch holds of an example.
Crop = Callable[[Any, int, Any], Any]
Load = Callable[[Any, Any, Any, Any], dict[str, Any]]


class Source(Protocol):
  """Some examples on a disk or in a bucket.

  Attributes:
    remedy: What to do about an example that can't be read, a sentence.
  """

  remedy: str

  def __len__(self) -> int:
    """Return the number of examples."""

  def describe(self, example: int) -> str:
    """Return where an example is, for a message."""

  def locate(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the files int32 [n] and offsets int64 [n] of examples [n]."""

  def load_fn(self, crop: Crop, size: int) -> Load:
    """Return a function that reads, decodes and crops an example.

    Args:
      crop: Maps (encoded image, size, seed) to an image.
      size: Side of the result in pixels.

    Returns:
      A function of TensorFlow's, (example, file, offset, seed) -> `image` uint8
      [size, size, 3], `label` int32 [] and `example` int64 [].
    """


@dataclasses.dataclass(frozen=True)
class Records:
  """Some examples of a data set that TFDS has prepared."""

  spec: DatasetSpec
  files: tfrecords.RecordFiles
  features: Any  # of TFDS, which parse a record
  numbers: np.ndarray  # int64 [N], index into the records of the files

  remedy = (
    "Repair that image at its source or leave it out, remove what was prepared,"
    " and prepare it again"
  )

  def __len__(self) -> int:
    return len(self.numbers)

  def locate(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the files int32 [n] and offsets int64 [n] of examples [n]."""
    numbers = self.numbers[examples]
    files = self.files
    return files.file_of_record[numbers], files.offset_of_record[numbers]

  def describe(self, example: int) -> str:
    """Return the split, the number and the file of an example."""
    return self.files.describe(self.numbers[example])

  def load_fn(self, crop: Crop, size: int) -> Load:
    """Return the function that `Source.load_fn` describes."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    files = tf.constant(self.files.paths)
    is_remote = paths.is_remote(self.files.paths[0])
    decoders = {"image": tfds.decode.SkipDecoding()}

    def load(example: Any, file: Any, offset: Any, seed: Any) -> dict[str, Any]:
      record = tfrecords.read_record(files[file], offset, is_remote=is_remote)
      found = self.features.deserialize_example(record, decoders=decoders)
      label = tf.cast(found[self.spec.clean_label_column], tf.int32)
      image = crop(found["image"], size, seed)
      loaded = {"image": image, "label": label, "example": example}
      if self.spec.label_sets_column:
        labels_of_image = found[self.spec.label_sets_column]
        rows = tf.one_hot(
          labels_of_image, self.spec.num_classes, True, False, dtype=tf.bool
        )
        loaded["label_set"] = tf.reduce_any(rows, axis=0)
      return loaded

    return load


class StreamingDataset:
  """Training and evaluation batches of a data set on disk.

  `Sampler` decides which examples make up a batch. The crop of an example
  depends only on the seed, the epoch and the example.

  Attributes:
    spec: The data set.
    num_train: Number of training examples.
    steps_per_epoch: Whole batches in the training set.
    folder: The images by name, of a data set of image files.
  """

  folder: ImageFolder | None = None

  def __init__(
    self,
    spec: DatasetSpec,
    train: Source,
    test: Source,
    *,
    crops_at_random: bool,
    seed: int,
    train_labels: np.ndarray | None = None,
    **sampling: Any,
  ):
    """Take the records of both splits.

    Args:
      spec: The data set; its image shape sets the size of crops.
      train: Examples to train on.
      test: Examples to evaluate on.
      crops_at_random: True if training sees random crops, False for centers.
      seed: Decides the order of examples, and their crops.
      train_labels: Labels int32 [N] to train on instead of the true ones.
      **sampling: The other keyword arguments of `Sampler`.

    Raises:
      DatasetError: The training set is smaller than a batch.
    """
    noisy_labels = train_labels is not None
    self.spec = dataclasses.replace(spec, noisy_labels=noisy_labels)
    self.num_train = len(train)
    self._sampler = Sampler(spec, self.num_train, seed=seed, **sampling)
    self.steps_per_epoch = self._sampler.steps_per_epoch
    self._splits: dict[str, Source] = {"train": train, "test": test}
    self._crops_at_random, self._seed = crops_at_random, seed
    self._train_labels = train_labels

  def train_batches(self, first_step: int) -> Iterator[Batch]:
    """Yield this host's part of the batches of first_step, first_step + 1...

    Yields:
      `image` uint8 [n, size, size, 3] and `label` int32 [n], n = batch_size /
      hosts; `clean_label` int32 [n] if labels may be wrong.
    """

    def requests() -> Iterator[tuple[np.ndarray, np.ndarray]]:
      for epoch, mine in self._sampler.train_indices(first_step):
        # The seed of a crop is a number for the epoch and one for the example.
        entropy = np.random.SeedSequence((self._seed, epoch, 0xC209))
        epoch_seed = entropy.generate_state(1, np.uint32).astype(np.int64)
        yield mine, np.stack(np.broadcast_arrays(epoch_seed, mine), axis=-1)

    crop = crops.random_crop if self._crops_at_random else _center_crop
    for batch in _closed_at_exit(self._read("train", requests, crop)):
      mine = batch.pop("example")
      if self._train_labels is not None:
        batch["clean_label"] = batch["label"]
        batch["label"] = self._train_labels[mine]
      yield batch

  def eval_batches(self, split: str) -> Iterator[Batch]:
    """Yield this host's part of every example of a split, once, in order.

    Args:
      split: "test", or "train" for training images with their clean labels.

    Yields:
      `image` uint8 [n, size, size, 3], `label` int32 [n] and `mask` float32
      [n]: 0 marks padding, which gives all batches of all hosts the same size.
      If images have sets of labels: `label_set` bool [n, classes].
    """
    count = len(self._splits[split])

    def requests() -> Iterator[tuple[np.ndarray, np.ndarray]]:
      for mine, _ in self._sampler.eval_indices(count):
        yield mine, np.zeros((len(mine), 2), np.int64)

    batches = _closed_at_exit(self._read(split, requests, _center_crop))
    masks = (mask for _, mask in self._sampler.eval_indices(count))
    for batch, mask in zip(batches, masks, strict=True):
      del batch["example"]
      yield {**batch, "mask": mask}

  def _read(
    self,
    split: str,
    requests: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    crop: Crop,
  ) -> Generator[Batch, None, None]:
    """Read and decode batches ahead of their use.

    Args:
      split: "train" or "test".
      requests: Yields (examples int [n], seeds int64 [n, 2]) of each batch.
      crop: Maps (encoded image, size, seed) to an image.

    Yields:
      `image`, `label` and `example`, as NumPy arrays.

    Raises:
      DatasetError: An image can't be read, a label is out of range, or the
        bucket fails.
    """
    import tensorflow as tf

    records = self._splits[split]
    load = records.load_fn(crop, self.spec.image_shape[0])

    def located() -> Iterator[tuple[np.ndarray, ...]]:
      for examples, seeds in requests():
        yield examples, *records.locate(examples), seeds

    batch_size = len(next(requests())[0])
    done = 0
    try:
      for batch in _pipeline(located, load, batch_size):
        self.spec.check_labels(batch["label"])
        yield batch
        done += 1
    except (
      tf.errors.DataLossError,
      tf.errors.InvalidArgumentError,
      tf.errors.NotFoundError,
      tf.errors.PermissionDeniedError,
    ):
      failed = next(itertools.islice(located(), done, None))
      self._raise_for_bad_image(records, load, failed)
      raise
    except tf.errors.UnknownError as error:  # of `bucket_files.read_record`
      cause = tfds_files.reason(error).removeprefix("RuntimeError: ")
      raise DatasetError(
        f"Data set {self.spec.name!r} can't be read: {cause}."
      ) from error

  def _raise_for_bad_image(
    self, records: Source, load: Load, batch: tuple[np.ndarray, ...]
  ) -> None:
    """Raise a DatasetError about the first example that can't be loaded."""
    import tensorflow as tf

    for example, *where in zip(*batch, strict=True):
      try:
        load(example, *where)
      except (tf.errors.OpError, ValueError) as error:
        raise DatasetError(
          f"Data set {self.spec.name!r}: {records.describe(example)}, can't be"
          f" read: {tfds_files.reason(error)}. {records.remedy}."
        ) from error


def _pipeline(
  located: Callable[[], Iterator[tuple[np.ndarray, ...]]],
  load: Load,
  batch_size: int,
) -> Iterator[Batch]:
  """Load examples in parallel and in order, ahead of their use.

  Args:
    located: Yields (examples, files, offsets, seeds) of each batch.
    load: See `Records.load_fn`.
    batch_size: Examples of a batch.

  Yields:
    What `load` returns, in batches of NumPy arrays.
  """
  import tensorflow as tf

  signature = (
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([None, 2], tf.int64),
  )
  batches = tf.data.Dataset.from_generator(located, output_signature=signature)
  # Loading branches by `tf.cond`: leave out the translation of Python's `if`.
  load = tf.autograph.experimental.do_not_convert(load)
  batches = batches.unbatch().map(
    load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  batches = batches.batch(batch_size).prefetch(2)
  yield from batches.as_numpy_iterator()


_open_streams: weakref.WeakSet[Generator] = weakref.WeakSet()


def _closed_at_exit(
  batches: Generator[Batch, None, None],
) -> Generator[Batch, None, None]:
  """Close a stream of batches before Python shuts down.

  TensorFlow asks Python which examples come next. Without Python it would wait
  forever.
  """
  _open_streams.add(batches)
  atexit.unregister(_close_streams)
  # Registered last, it runs first: before TensorFlow's own functions.
  atexit.register(_close_streams)
  return batches


def _close_streams() -> None:
  for batches in list(_open_streams):
    with contextlib.suppress(ValueError):  # another thread is reading it
      batches.close()


def _center_crop(encoded: Any, size: int, seed: Any) -> Any:
  del seed
  return crops.center_crop(encoded, size)


def load_streaming(
  spec: DatasetSpec,
  *,
  data_dir: str | None,
  validation_size: int,
  labels_path: epath.PathLike | None = None,
  noise_rate: float = 0.0,
  noise_kind: str = "symmetric",
  noise_seed: int = 0,
  **kwargs: Any,
) -> StreamingDataset:
  """Open a data set that TFDS has prepared.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.
    validation_size: If positive, that many examples at the end of the first
      training split are held out and take the place of the test set.
    labels_path: See `labels.read_labels`; None for the labels of TFDS.
    noise_rate: See `labels.corrupt_labels`.
    noise_kind: See `labels.corrupt_labels`.
    noise_seed: See `labels.corrupt_labels`.
    **kwargs: The keyword arguments of `StreamingDataset`.

  Raises:
    DatasetError: The data set was never prepared, is damaged, differs from its
      spec, or is too small for the validation set.
  """
  builder = tfds_files.prepared_builder(spec, data_dir)
  tfds_files.hide_accelerators_from_tensorflow()
  features = builder.info.features
  files = tfrecords.RecordFiles(spec, builder, spec.train_splits, data_dir)
  numbers = np.arange(len(files))
  if validation_size:
    info = tfds_files.split_info(spec, builder, spec.train_splits[0])
    first = info.num_examples
    count = num_left_to_train(spec, first, validation_size)
    test = Records(spec, files, features, numbers[count:first])
    numbers = np.delete(numbers, slice(count, first))
  else:
    splits = (spec.test_split,)
    test_files = tfrecords.RecordFiles(spec, builder, splits, data_dir)
    test = Records(spec, test_files, features, np.arange(len(test_files)))
  train = Records(spec, files, features, numbers)
  given = None
  if labels_path:
    given = labels.read_labels(labels_path, len(train), spec.num_classes)
  elif noise_rate > 0:
    clean = tfrecords.load_labels(spec, builder, data_dir)[numbers]
    given = labels.corrupt_labels(
      clean, spec.num_classes, noise_rate, noise_kind, noise_seed
    )
  return StreamingDataset(spec, train, test, train_labels=given, **kwargs)
