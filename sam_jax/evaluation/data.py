"""The examples of an evaluation: a split of the run's data set, or others."""

import dataclasses

import jax
from ml_collections import ConfigDict

from sam_jax.analysis.trained_run import TrainedRun
from sam_jax.config.schema import ConfigError, did_you_mean
from sam_jax.datasets import catalog
from sam_jax.datasets.class_names import class_names
from sam_jax.training import build
from sam_jax.training.input_pipeline import Dataset, create_dataset

SPLITS = ("test", "validation", "train")


@dataclasses.dataclass(frozen=True)
class EvaluationData:
  """Examples to evaluate a network on.

  Attributes:
    name: Name of the data set.
    split: One of `SPLITS`.
    dataset: The data set, its training labels clean.
  """

  name: str
  split: str
  dataset: Dataset

  @property
  def split_of_dataset(self) -> str:
    """The name of the split for `Dataset.eval_batches`."""
    return "train" if self.split == "train" else "test"


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
    data: Name of a data set with the classes of the run; None for its own.
    split: "test", "train", or "validation" for the training examples that the
      run held out; None for what the run was evaluated on while it trained.
    data_dir: Directory of the data sets; None for that of the run.
    batch_size: Examples of a pass, over all devices; None for that of the run.

  Raises:
    ConfigError: The data set is unknown or does not fit the network, or the run
      held nothing out.
    DatasetError: It is missing or damaged.
  """
  name = data or run.config.dataset.name
  config = _config_without_training(run, name)
  if data_dir is not None:
    config.dataset.data_dir = data_dir
  config.eval_batch_size = batch_size or run.eval_batch_size
  held_out = config.dataset.validation_size
  split = split or ("validation" if held_out else "test")
  if split == "validation" and not held_out:
    raise ConfigError(
      f"--split=validation: the run did not hold out examples of {name}. Use"
      " --split=test."
    )
  if split == "test":
    config.dataset.validation_size = 0
  if name != run.config.dataset.name:
    _check_classes(run, config)
  return EvaluationData(name, split, create_dataset(config))


def _config_without_training(run: TrainedRun, name: str) -> ConfigDict:
  """Return the config of a run with what evaluation needs of a data set."""
  if name not in catalog.known_datasets():
    known = did_you_mean(name, catalog.known_datasets())
    raise ConfigError(f"--data={name} is no data set. {known}")
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


def _check_classes(run: TrainedRun, config: ConfigDict) -> None:
  """Check that another data set has the classes and channels of a run.

  Raises:
    ConfigError: It has not.
  """
  spec = build.dataset_spec(config)
  for what, theirs, ours in (
    ("classes", spec.num_classes, run.spec.num_classes),
    ("channels", spec.image_shape[2], run.spec.image_shape[2]),
  ):
    if theirs != ours:
      raise ConfigError(
        f"--data={spec.name} has {theirs} {what}, and the network of"
        f" {run.workdir} {ours}. Choose data with the same {what}."
      )
  names = class_names(spec, config.dataset.data_dir)
  for i, pair in enumerate(zip(names, run.class_names, strict=True)):
    if pair[0] != pair[1] and str(i) not in pair:  # a number: without a name
      raise ConfigError(
        f"--data={spec.name}: class {i} is {pair[0]!r}, and that of the network"
        f" is {pair[1]!r}. Choose data with the same classes."
      )
