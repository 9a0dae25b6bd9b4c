"""The examples of an evaluation: a split of the run's data set, or others."""

import dataclasses
import logging
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from sam_jax import buckets, paths
from sam_jax.analysis.trained_run import TrainedRun
from sam_jax.config.schema import ConfigError, did_you_mean
from sam_jax.datasets import catalog, corrupted, image_files, image_folder
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.datasets.class_names import class_names
from sam_jax.datasets.corrupted import CorruptedImages
from sam_jax.training import build
from sam_jax.training.input_pipeline import Dataset, create_dataset

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EvaluationData:
  """Examples to evaluate a network on.

  Attributes:
    name: Name of the data set.
    split: "test", "validation" or "train".
    dataset: The data set, its training labels clean.
    split_of_dataset: The name of the split for `Dataset.eval_batches`.
    has_labels: False for images without classes: their labels are all 0.
  """

  name: str
  split: str
  dataset: Dataset
  split_of_dataset: str
  has_labels: bool = True

  @property
  def path(self) -> str | None:
    """Path of the images, if they are files."""
    folder = self.dataset.folder
    return None if folder is None else str(folder.root)

  @property
  def examples(self) -> Sequence[str] | None:
    """Names of the examples, if they are files."""
    folder = self.dataset.folder
    if folder is None:
      return None
    is_train = self.split_of_dataset == "train"
    return (folder.train if is_train else folder.test).files.names


def select(
  run: TrainedRun,
  data: str | None = None,
  split: str | None = None,
  *,
  data_dir: str | None = None,
  batch_size: int | None = None,
) -> EvaluationData:
  """Load a split of the data set of a run, or of another one.

  Args:
    run: The run.
    data: Name of a data set, or the path of images; None for the run's own.
    split: "test", "train", or "validation" for the training examples that the
      run held out; None for what the run was evaluated on while it trained.
    data_dir: Directory of the data sets; None for that of the run.
    batch_size: Examples of a pass, over all devices; None for that of the run.

  Raises:
    ConfigError: The data set is unknown or does not fit the network, or the run
      held nothing out.
    DatasetError: It is missing or damaged.
  """
  if data and _is_path(data):
    if data_dir is not None:
      raise ConfigError(
        f"--data_dir={data_dir} has no effect with the path --data={data}."
        " Remove one of them."
      )
    return _select_files(run, data, split or "test", batch_size)
  name = data or run.config.dataset.name
  config = _config_without_training(run, name)
  config.dataset.data_dir = _data_dir(run, name, data_dir)
  config.eval_batch_size = batch_size or run.eval_batch_size
  held_out = config.dataset.validation_size
  split = split or ("validation" if held_out else "test")
  if name in catalog.evaluation_sets():
    _check_is_test(name, split)
  if split == "validation" and not held_out:
    raise ConfigError(
      f"--split=validation: the run did not hold out examples of {name}. Use"
      " --split=test."
    )
  if split == "test" and held_out:
    _check_test_set(config)
    config.dataset.validation_size = 0
  if name != run.config.dataset.name:
    check_classes(run, build.dataset_spec(config), config.dataset.data_dir)
  dataset = create_dataset(config)
  if config.dataset.validation_size == held_out:
    _check_files(run, dataset)
  part = "train" if split == "train" else "test"
  return EvaluationData(name, split, dataset, part)


def select_corrupted(
  run: TrainedRun,
  name: str,
  split: str | None = None,
  *,
  data_dir: str | None = None,
) -> CorruptedImages:
  """Find the images of a data set of corrupted images.

  Args:
    run: The run.
    name: One of `corrupted.NAMES`.
    split: "test" or None.
    data_dir: Directory of the data sets; None for that of the run.

  Raises:
    ConfigError: The data set does not fit the network, or has no such split.
    DatasetError: It is missing or damaged.
  """
  _check_is_test(name, split or "test")
  data_dir = _data_dir(run, name, data_dir)
  check_classes(run, corrupted.corrupted_spec(name), data_dir)
  return corrupted.find(name, data_dir)


def _data_dir(run: TrainedRun, name: str, data_dir: str | None) -> str | None:
  """Return the directory of a data set: --data_dir, or that of the run."""
  dataset = run.config.dataset
  if data_dir is None and dataset.name in (name, *catalog.prepared_datasets()):
    return dataset.data_dir
  return data_dir  # `data_dir` of an image folder is that of its images


def _check_is_test(name: str, split: str) -> None:
  if split != "test":
    raise ConfigError(
      f"--split={split}: {name} has a test set alone. Use --split=test."
    )


def _is_path(data: str) -> bool:
  """Return True if --data is a directory or a CSV file, not a name."""
  if data in (*catalog.known_datasets(), *catalog.evaluation_sets()):
    return False
  is_csv = data.lower().endswith(".csv")
  return is_csv or "/" in data or paths.resolve(data).is_dir()


def _select_files(
  run: TrainedRun, data: str, split: str, batch_size: int | None
) -> EvaluationData:
  """Load image files, as the network of a run sees them."""
  if split == "validation":
    raise ConfigError(
      f"--split=validation: nothing is held out of {data}. Use --split=test."
    )
  buckets.check(data, "--data")
  folder, has_labels = image_folder.find_to_evaluate(
    data, run.class_names, split
  )
  skips_broken = run.config.dataset.broken_images == "skip"
  folder, arrays = image_files.examined(
    folder,
    run.spec,
    skips_broken=skips_broken,
    remedy="Repair or remove them, or list the others in a CSV file",
  )
  if not len(folder.train):
    raise ConfigError(f"--data={data}: all images are broken. Repair them.")
  dataset = image_files.dataset_of(
    *(folder, arrays, run.spec),
    batch_size=1,
    eval_batch_size=batch_size or run.eval_batch_size,
    seed=run.config.seed,
  )
  name = paths.resolve(data).stem
  return EvaluationData(name, split, dataset, "train", has_labels)


def _check_test_set(config: ConfigDict) -> None:
  """Check that a test set other than the held-out examples exists.

  Raises:
    ConfigError: It does not.
  """
  data_dir = config.dataset.data_dir
  if config.dataset.name != catalog.IMAGE_FOLDER:
    return
  if not image_folder.has_test_split(data_dir):
    raise ConfigError(
      f"--split=test: {data_dir} has no test set. Use --split=validation, the"
      " examples that the run held out."
    )


def _check_files(run: TrainedRun, dataset: Dataset) -> None:
  """Warn if the images are not those that the run was trained with."""
  if dataset.folder is None or dataset.folder.fingerprint == run.fingerprint:
    return
  logger.warning(
    "%s has other images than when %s was trained: the examples that the run"
    " held out may be others now.",
    dataset.folder.root,
    run.workdir,
  )


def _config_without_training(run: TrainedRun, name: str) -> ConfigDict:
  """Return the config of a run with what evaluation needs of a data set."""
  names = [*catalog.known_datasets(), *catalog.evaluation_sets()]
  if name not in names:
    known = did_you_mean(name, [*names, *corrupted.NAMES])
    raise ConfigError(
      f"--data={name} is no data set, nor a directory or a CSV file. {known}"
    )
  if name == catalog.IMAGE_FOLDER and name != run.config.dataset.name:
    raise ConfigError(f"--data={name}: give the path of the images instead.")
  config = run.config.copy_and_resolve_references()
  devices = jax.local_device_count()
  config.batch_size = devices  # a training set may be smaller than a batch
  config.dataset.label_noise.rate = 0.0
  config.dataset.label_file = None
  if name != config.dataset.name:
    config.dataset.name, config.dataset.label_column = name, None
    config.dataset.validation_size = 0
    # Images in memory are resized on the device, by the run's preprocessing.
    is_streamed = catalog.dataset_spec(name).storage == catalog.STREAM
    size = run.spec.image_shape[0] if is_streamed else None
    config.dataset.image_size = size
  return config


def check_classes(
  run: TrainedRun, spec: DatasetSpec, data_dir: str | None
) -> None:
  """Check that another data set has the classes and channels of a run.

  Raises:
    ConfigError: It has not.
  """
  for what, theirs, ours in (
    ("classes", spec.num_classes, run.spec.num_classes),
    ("channels", spec.image_shape[2], run.spec.image_shape[2]),
  ):
    if theirs != ours:
      raise ConfigError(
        f"--data={spec.name} has {theirs} {what}, and the network of"
        f" {run.workdir} {ours}. Choose data with the same {what}."
      )
  names = class_names(spec, data_dir)
  for i, pair in enumerate(zip(names, run.class_names, strict=True)):
    if pair[0] != pair[1] and str(i) not in pair:  # a number: without a name
      raise ConfigError(
        f"--data={spec.name}: class {i} is {pair[0]!r}, and that of the network"
        f" is {pair[1]!r}. Choose data with the same classes."
      )
