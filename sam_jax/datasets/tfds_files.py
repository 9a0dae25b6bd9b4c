"""TFDS builders, splits and files, checked against the catalog."""

import contextlib
import functools
import importlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

from etils import epath

from sam_jax import paths, wording
from sam_jax.datasets import bucket_files, local_files
from sam_jax.datasets.catalog import DatasetError, DatasetSpec

logger = logging.getLogger(__name__)


def tfds_builder(
  spec: DatasetSpec, data_dir: str | None, version: str | None = None
) -> Any:
  """Return the TFDS builder of a data set, prepared or not.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.
    version: Version of the data set; None for the builder's own.
  """
  set_tensorflow_environment()
  import tensorflow_datasets as tfds  # slow to import, rarely needed

  if data_dir:
    data_dir = os.fspath(paths.resolve(data_dir))
  options = {"version": version} if version else {}
  if ":" not in spec.tfds_name:
    return tfds.builder(spec.tfds_name, data_dir=data_dir, **options)
  module, name = spec.tfds_name.split(":")
  builder_class = getattr(importlib.import_module(module), name)
  return builder_class(data_dir=data_dir, **options)


def set_tensorflow_environment() -> None:
  """Set the variables that TensorFlow reads at its import and first use."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  # Keep freed memory. By default the buffers of each decoded image go back to
  # the kernel, which clears the pages that it hands out again.
  os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")


def prepared_builder(spec: DatasetSpec, data_dir: str | None) -> Any:
  """Return the TFDS builder of a data set whose files exist.

  Files of another version are used if they fit, see `_other_version`. A data
  set that needs no download is prepared on the spot.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.

  Raises:
    DatasetError: The data set was never prepared, is damaged, or differs from
      its spec. The message names the directory and the remedy.
  """
  builder = tfds_builder(spec, data_dir)
  if not bucket_files.is_prepared(builder):
    other = _other_version(spec, data_dir, builder)
    if other is None and spec.needs_download:
      raise DatasetError(
        f"Data set {spec.name!r} is not at {builder.data_path}."
        f"{_unusable_versions(builder)} Prepare it with:"
        f" {_prepare_command(spec, data_dir)}"
      )
    if other is None:
      _prepare_quietly(spec, builder)
    builder = other or builder
  if not builder.info.splits:  # read before another process had prepared it
    builder = tfds_builder(spec, data_dir)
  if not builder.info.splits:
    raise damaged(spec, builder, "dataset_info.json is not there")
  _check_features(spec, builder)
  return builder


def _other_version(
  spec: DatasetSpec, data_dir: str | None, builder: Any
) -> Any | None:
  """Return a builder of prepared data of another version that fits.

  These are the versions that the builder's code supports, and those that differ
  from its own in the last number alone: by TFDS's rules they hold the same
  examples, but maybe in other features, which only features.json tells.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.
    builder: Its TFDS builder, not prepared.

  Returns:
    The builder of the newest such version; None if there is none.
  """
  import tensorflow_datasets as tfds

  own = builder.version
  for version in reversed(_versions_on_disk(builder)):
    directory = builder.data_path.parent / str(version)
    other = None
    if version in builder.versions:
      other = tfds_builder(spec, data_dir, str(version))
    elif (version.major, version.minor) == (own.major, own.minor) and (
      directory / "features.json"
    ).exists():
      other = tfds.builder_from_directory(directory)
    if other is not None:
      logger.info("Using version %s of %s: %s", version, spec.name, directory)
      return other
  return None


def _versions_on_disk(builder: Any) -> list[Any]:
  """Return the versions of a data set that were prepared, the oldest first."""
  from tensorflow_datasets.core.utils import version as version_lib

  directory = builder.data_path.parent
  return [
    version
    for version in version_lib.list_all_versions(directory)
    if (directory / str(version) / "dataset_info.json").exists()
  ]


def _unusable_versions(builder: Any) -> str:
  """Return a sentence about prepared versions that do not fit, if any."""
  import tensorflow_datasets as tfds

  found = ", ".join(map(str, _versions_on_disk(builder)))
  if not found:
    return ""
  return (
    f" Found version(s) {found} there, which TFDS {tfds.__version__} can't use"
    " in its place: install the TFDS that prepared the data, or prepare the"
    " data set again."
  )


def download_and_prepare(
  spec: DatasetSpec,
  data_dir: str | None,
  *,
  manual_dir: str | None = None,
) -> Any:
  """Download a data set and write its TFDS files.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.
    manual_dir: Directory of the files that users must download; None for
      downloads/manual in the data directory. It may also hold what
      `local_files` takes in place of downloads.

  Returns:
    Its TFDS builder.

  Raises:
    DatasetError: It can't be prepared; one line says why.
  """
  builder = tfds_builder(spec, data_dir)
  if _other_version(spec, data_dir, builder) is not None:
    return prepared_builder(spec, data_dir)
  import tensorflow_datasets as tfds

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(
    manual_dir=manual_dir,
    # Our own builders compare checksums themselves.
    force_checksums_validation=":" not in spec.tfds_name,
  )
  try:
    with (
      _no_retry_without_connection(spec),
      _preparation(spec, builder) as staged,
      local_files.found(
        spec.name, manual_dir, staged.data_dir_root / "downloads" / "manual"
      ) as files,
    ):
      if files:
        local_files.use(staged, files)
      staged.download_and_prepare(download_config=config)
  except DatasetError:
    raise
  except Exception as error:  # TFDS raises all kinds
    if epath.Path(builder.data_path).exists():  # another process was faster
      return prepared_builder(spec, data_dir)
    line = " ".join(str(error).split())
    raise DatasetError(
      f"Data set {spec.name!r} can't be prepared: {line}"
    ) from error
  return prepared_builder(spec, data_dir)


def _preparation(spec: DatasetSpec, builder: Any) -> Any:
  """Return a context with a builder to prepare in place of another one."""
  local_builder = functools.partial(tfds_builder, spec)
  return bucket_files.preparation(builder, local_builder)


@contextlib.contextmanager
def _no_retry_without_connection(spec: DatasetSpec) -> Iterator[None]:
  """Make downloads fail at once if there is no connection.

  TFDS asks urllib3 to retry ten times, which takes minutes on a machine without
  a network. Errors of a server are still retried.
  """
  from urllib3.exceptions import NewConnectionError
  from urllib3.util import retry

  others = local_files.remedies(spec.name)
  retry_class: Any = retry.Retry
  increment = retry_class.increment

  def fail_or_increment(self: Any, *args: Any, **kwargs: Any) -> Any:
    error = kwargs.get("error")
    cause = getattr(error, "original_error", error)  # of a proxy's error
    if not isinstance(cause, NewConnectionError):
      return increment(self, *args, **kwargs)
    host = getattr(kwargs.get("_pool"), "host", "the server")
    raise ConnectionError(
      f"{host} can't be reached. Connect this machine to the network,{others}"
      " or copy the prepared data from another machine."
    ) from error

  retry_class.increment = fail_or_increment
  try:
    yield
  finally:
    retry_class.increment = increment


def _prepare_command(spec: DatasetSpec, data_dir: str | None) -> str:
  """Return the command line that prepares a data set, ready for a shell."""
  words = ["python", "-m", "sam_jax.datasets.prepare", spec.name]
  if data_dir:
    words.append(f"--data_dir={data_dir}")
  if not spec.manual_files:
    return shlex.join(words)
  return (
    f"{shlex.join(words)} --manual_dir=DIR, where DIR holds {spec.manual_files}"
  )


def _prepare_quietly(spec: DatasetSpec, builder: Any) -> None:
  """Prepare a data set within a run, without TFDS's many progress bars.

  Raises:
    DatasetError: It can't be written.
  """
  import tensorflow_datasets as tfds

  logger.info("Preparing data set %s at %s.", spec.name, builder.data_path)
  tfds.disable_progress_bar()
  try:
    with (
      contextlib.redirect_stdout(None),
      _preparation(spec, builder) as staged,
    ):
      staged.download_and_prepare()
  except OSError as error:
    if bucket_files.is_prepared(builder):
      return  # another process was faster
    raise DatasetError(
      f"Data set {spec.name!r} can't be written to {builder.data_path}:"
      f" {error.strerror or error}. Set config.dataset.data_dir to a directory"
      " that can be written."
    ) from error


def _check_features(spec: DatasetSpec, builder: Any) -> None:
  """Compare a spec with the features of the prepared data.

  Raises:
    DatasetError: A feature is missing, or the number of classes or the shape
      of images differs.
  """
  features = builder.info.features
  for name in ("image", *spec.label_columns):
    if name not in features:
      raise DatasetError(
        f"Data set {spec.name!r} at {builder.data_path} has no feature"
        f" {name!r}, only {', '.join(features)}. Rename the feature in its TFDS"
        " builder, or correct the label columns in its DatasetSpec."
      )
  for name in spec.label_columns:
    count = getattr(features[name], "num_classes", None)  # of a ClassLabel
    if count not in (None, spec.num_classes):
      raise spec.mismatch(
        "num_classes", f"{wording.count(count, 'class', 'classes')} in {name!r}"
      )
  spec.check_image_shape(features["image"].shape)


def damaged(spec: DatasetSpec, builder: Any, problem: str) -> DatasetError:
  """Return an error that reports damaged files."""
  return DatasetError(
    f"Data set {spec.name!r} at {builder.data_path} is damaged: {problem}."
    " Remove that directory and prepare it again."
  )


def split_info(spec: DatasetSpec, builder: Any, split: str) -> Any:
  """Return the TFDS SplitInfo of a split of a prepared data set.

  Raises:
    DatasetError: It was prepared without that split, as ImageNet may be.
  """
  if split not in builder.info.splits:
    raise DatasetError(
      f"Data set {spec.name!r} at {builder.data_path} has no split {split!r},"
      f" only {', '.join(builder.info.splits)}. Remove that directory, add the"
      " missing archives, and prepare it again."
    )
  return builder.info.splits[split]


def split_files(
  spec: DatasetSpec, builder: Any, split: str
) -> tuple[list[epath.Path], list[Any]]:
  """Return the files of a split in order, and their names and sizes.

  Raises:
    DatasetError: The split or one of its files is missing.
  """
  info = split_info(spec, builder, split)
  paths = [epath.Path(path) for path in info.filepaths]
  try:
    return paths, names_and_sizes(paths)
  except Exception:  # gs:// has errors of its own
    for path in paths:
      if not path.exists():
        problem = f"{path.name} is not there"
        raise damaged(spec, builder, problem) from None
    raise


def names_and_sizes(paths: Iterable[epath.Path]) -> list[Any]:
  """Return ["1.0.0/a-train.tfrecord", bytes] of each file.

  These tell the files of one version of a data set from those of another.
  """

  def name_and_size(path: epath.Path) -> list[Any]:
    return ["/".join(path.parts[-2:]), path.stat().length]

  with futures.ThreadPoolExecutor(16) as pool:
    return list(pool.map(name_and_size, paths))


@contextlib.contextmanager
def damage_reported(spec: DatasetSpec, builder: Any) -> Iterator[None]:
  """Turn TensorFlow's errors about damaged files into a DatasetError."""
  import tensorflow as tf

  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    raise damaged(spec, builder, reason(error)) from error


def reason(error: Any) -> str:
  """Return the message of a TensorFlow error, without its place in a graph."""
  message = getattr(error, "message", str(error))
  text = re.sub(r"{{.*?}}|\[Op:.*|\n.*", "", message.strip())
  return text.strip().rstrip(".")


def hide_accelerators_from_tensorflow() -> None:
  """Leave the memory of all accelerators to JAX."""
  set_tensorflow_environment()
  import tensorflow as tf

  for kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], kind)
