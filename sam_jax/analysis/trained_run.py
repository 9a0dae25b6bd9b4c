"""From the directory of a run to its network, its predictions and its data."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.tree_util import Partial
from ml_collections import ConfigDict

from sam_jax import buckets, models, paths
from sam_jax.analysis.objective import (
  ExampleLosses,
  first_examples,
  network_losses,
)
from sam_jax.config.schema import (
  ConfigError,
  check_values,
  default_config,
  flatten,
)
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.datasets.class_names import class_names
from sam_jax.datasets.stored_form import as_stored
from sam_jax.runs import dataset_record
from sam_jax.runs import workdir as workdir_lib
from sam_jax.runs.checkpoint_errors import reading
from sam_jax.runs.checkpoints import SavedCheckpoints
from sam_jax.training import build, losses, parallel
from sam_jax.training.checks import errors_of
from sam_jax.training.input_pipeline import (
  Dataset,
  create_dataset,
  prepare_ahead,
)
from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts, create_state


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """The network of a run at one of its checkpoints.

  The data set is loaded when it is first used: predictions need no data.

  Attributes:
    workdir: Directory of the run.
    config: Its config, complete.
    step: Training steps before the checkpoint.
    spec: Its data set as the network sees it: classes, shape, normalization.
    model: Its network.
    variables: `params` and `batch_stats`, NumPy arrays; running averages of the
      parameters if the run has them.
    fingerprint: That of `ImageFolder`, if the data are files; else None.
  """

  workdir: epath.Path
  config: ConfigDict = dataclasses.field(repr=False)
  step: int
  spec: DatasetSpec
  model: nn.Module
  variables: dict[str, Any] = dataclasses.field(repr=False)
  fingerprint: str | None = None

  @property
  def params(self) -> Any:
    """The parameters, a tree of NumPy arrays."""
    return self.variables["params"]

  @functools.cached_property
  def dataset(self) -> Dataset:
    """The data set of the run, as it trained on it."""
    return create_dataset(self.config)

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes, in the order of the logits."""
    return class_names(self.spec, self.config.dataset.data_dir)

  @property
  def preprocess(self) -> Callable[[jax.Array], jax.Array]:
    """The preprocessing of evaluation, see `build.preprocess_fn`."""
    return build.preprocess_fn(self.spec)

  @property
  def loss(self) -> losses.Loss:
    """The loss of training, as a function of logits and targets."""
    return losses.LOSSES[self.config.loss]

  @functools.cached_property
  def _programs(self) -> dict[Callable[..., Any], Any]:
    """Compiled programs by the function that they apply to the logits."""
    return {}

  @functools.cached_property
  def _on_devices(self) -> dict[str, Any]:
    """A copy of the variables on every device."""
    return parallel.replicate(self.variables)

  @functools.cached_property
  def variable_losses(self) -> ExampleLosses:
    """The losses of examples as a function of parameters and statistics."""
    return network_losses(self.model, self.preprocess, self.loss)

  @functools.cached_property
  def example_losses(self) -> ExampleLosses:
    """The losses of examples, with the run's batch statistics.

    Compiled programs take the statistics as an argument: other runs of the same
    network find them in the persistent cache.
    """

    def losses(batch_stats, params, batch):
      variables = {"params": params, "batch_stats": batch_stats}
      return self.variable_losses(variables, batch)

    return Partial(losses, self.variables["batch_stats"])

  def examples(
    self, split: str, limit: int | None = None
  ) -> dict[str, np.ndarray]:
    """Return the first examples of a split, see `objective.first_examples`."""
    return first_examples(self.dataset, split, limit)

  def logits(self, variables: Any, images: jax.Array) -> jax.Array:
    """Return the logits of images in evaluation mode, a function for `jit`.

    Args:
      variables: Like `self.variables`.
      images: uint8 [n, h, w, C], as they are stored, see `as_stored`.

    Returns:
      float32 [n, classes].
    """
    images = self.preprocess(images)
    logits: Any = self.model.apply(variables, images, train=False)
    return jnp.asarray(logits, jnp.float32)

  def predict(
    self, images: np.ndarray, batch_size: int | None = None
  ) -> np.ndarray:
    """Return the probabilities of the classes, one row for each image.

    Images are cropped and resized as the data set is for its evaluation.

    Args:
      images: uint8 [N, H, W, C] of any height and width; C is that of the data
        set, 3 for color.
      batch_size: Images at a time, over all devices; None: as in evaluation.

    Returns:
      float32 [N, classes], in the order of `class_names`.

    Raises:
      ValueError: The images are no such array, or the batch is empty.
    """
    if batch_size is not None and batch_size < 1:
      raise ValueError(f"batch_size = {batch_size} must be at least 1.")
    images = as_stored(images, self.spec)
    size = min(batch_size or self.eval_batch_size, max(len(images), 1))
    starts = range(0, len(images), size)
    batches = ({"image": images[i : i + size]} for i in starts)
    rows = [out["probabilities"] for _, out in self._apply(_predict, batches)]
    empty = np.zeros((0, self.spec.num_classes), np.float32)
    return np.concatenate([empty, *rows])

  @property
  def eval_batch_size(self) -> int:
    """Examples of an evaluation step of the run."""
    return self.config.eval_batch_size or self.config.batch_size

  def outcomes(
    self, dataset: Dataset, split: str
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yield what the network makes of the examples of a split, in order.

    Args:
      dataset: A data set with the shape and the classes of `spec`.
      split: "test" or "train", without augmentation and with clean labels.

    Yields:
      Arrays [n] for each batch, without its padding: `label` int32,
      `prediction` int32, `confidence` float32 (the largest probability), `nll`
      float32 (of the softmax) and `is_in_top_5` bool. If images have sets of
      labels: `has_label_set` bool, False if the set is empty, and
      `is_in_label_set` bool, True if the prediction is in the set.
    """
    for batch, found in self._apply(_examine, dataset.eval_batches(split)):
      is_real = batch["mask"] > 0
      found = {"label": batch["label"], **found}
      yield {name: array[is_real] for name, array in found.items()}

  def _apply(
    self, fn: Callable[..., dict[str, jax.Array]], batches: Iterator[Any]
  ) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """Yield batches with the result of (logits, batch) -> arrays [n, ...].

    Batches are padded: their size need not divide by the devices.
    """
    program = self._program(fn)
    results = (
      (batch, program(self._on_devices, parallel.shard(_padded(batch))))
      for batch in batches
    )
    for batch, result in prepare_ahead(results):
      found = jax.tree.map(np.concatenate, jax.device_get(result))
      size = len(batch["image"])
      yield batch, {name: array[:size] for name, array in found.items()}

  def _program(self, fn: Callable[..., dict[str, jax.Array]]) -> Any:
    """Compile (variables, batch) -> fn(logits, batch) for all devices, once."""
    if fn not in self._programs:

      def of_device(variables, batch):
        return fn(self.logits(variables, batch["image"]), batch)

      self._programs[fn] = parallel.map_over_devices(
        of_device, in_axes=(None, 0), out_axes=0
      )
    return self._programs[fn]


def _padded(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Append zeros to arrays [n, ...] until the local devices divide them."""
  count = jax.local_device_count()
  return {
    name: np.pad(x, [(0, -len(x) % count)] + [(0, 0)] * (x.ndim - 1))
    for name, x in batch.items()
  }


def _predict(logits: jax.Array, batch: Any) -> dict[str, jax.Array]:
  del batch
  return {"probabilities": jax.nn.softmax(logits)}


def _examine(logits: jax.Array, batch: Any) -> dict[str, jax.Array]:
  """Compare logits [n, classes] with labels; see `TrainedRun.outcomes`."""
  labels, num_classes = batch["label"], logits.shape[-1]
  targets = jax.nn.one_hot(labels, num_classes)
  misses = losses.top_k_error(logits, labels, min(5, num_classes))
  prediction = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  found = {
    "prediction": prediction,
    "confidence": jnp.max(jax.nn.softmax(logits), axis=-1),
    "nll": losses.cross_entropy(logits, targets),
    "is_in_top_5": misses == 0,
  }
  if "label_set" in batch:
    sets = batch["label_set"]
    found["has_label_set"] = jnp.any(sets, axis=-1)
    is_in = jnp.take_along_axis(sets, prediction[:, None], axis=-1)
    found["is_in_label_set"] = is_in[:, 0]
  return found


def read_config(workdir: epath.PathLike, step: int | None = None) -> ConfigDict:
  """Return the config of a run that has a checkpoint, without loading it.

  Args:
    workdir: Directory that `sam_jax.train` wrote, local or gs://.
    step: Step of the checkpoint; None for any.

  Returns:
    The config, with defaults for fields that it lacks.

  Raises:
    ConfigError: There is no run, or it has no such checkpoint.
    WorkdirLostError: The disk or the network fails.
  """
  buckets.check(workdir, "--workdir", for_checkpoints=True)
  workdir = paths.resolve(workdir)
  with reading(workdir):
    fields = workdir_lib.read_config(workdir)
  if fields is None:
    raise ConfigError(
      f"--workdir={workdir} holds no run: no config.json. Name a directory that"
      " sam_jax.train wrote."
    )
  workdir_lib.check_known_fields(workdir, fields)
  check_values(dict(flatten(fields)), f"{workdir / 'config.json'}: ")
  steps = SavedCheckpoints(workdir / "checkpoints").steps()
  if not steps:
    raise _no_checkpoints(workdir)
  if step is not None and step not in steps:
    raise ConfigError(
      f"--workdir={workdir} has no checkpoint of step {step!r}. Kept:"
      f" {', '.join(map(str, steps))}."
    )
  config = ConfigDict(default_config().to_dict())
  config.update(ConfigDict(fields))
  return config


def load_run(
  workdir: epath.PathLike, step: int | None = None, *, use_ema: bool = True
) -> TrainedRun:
  """Load a checkpoint of a run, finished or not.

  Nothing in the directory changes: the run may still be training.

  Args:
    workdir: Directory that `sam_jax.train` wrote, local or gs://.
    step: Step of a checkpoint that was kept; None for the newest.
    use_ema: Take the running averages of the parameters if the run has them, as
      its evaluation does.

  Raises:
    ConfigError: There is no run, it has no such checkpoint, or this code can't
      read it.
    WorkdirLostError: The disk or the network fails.
  """
  config = read_config(workdir, step)
  workdir = paths.resolve(workdir)
  checkpoints = SavedCheckpoints(workdir / "checkpoints")
  # The run may have found its network in a file that is not found from here.
  with errors_of("model.name", config.model.name):
    models.image_size(config.model.name)
  with reading(workdir):
    record = dataset_record.read(workdir)
  spec = build.dataset_spec(config, record.get("class_names", ()))
  # Evaluation does not use m, and every m fits one device. The structure of the
  # state does not depend on the length of an epoch.
  parts = build.parts(config, spec, steps_per_epoch=1, num_devices=1)
  template = empty_state(parts, spec)
  if step is None:
    state = checkpoints.restore_latest(template)
  else:
    state = checkpoints.restore(template, step)
  if state is None:
    raise _no_checkpoints(workdir)
  if not use_ema:
    state = state.replace(ema={})
  return TrainedRun(
    workdir,
    config,
    int(state.step),
    spec,
    parts.model,
    state.eval_variables(),
    (record.get("files") or {}).get("fingerprint"),
  )


def empty_state(parts: Parts, spec: DatasetSpec) -> TrainState:
  """Return a state of zeros, without compiling the initialization."""
  shapes = jax.eval_shape(
    lambda key: create_state(parts, spec.image_shape, key), jax.random.key(0)
  )
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _no_checkpoints(workdir: epath.Path) -> ConfigError:
  return ConfigError(
    f"--workdir={workdir} holds a run without checkpoints. Train it further."
  )


def predicted_labels(run: TrainedRun) -> np.ndarray:
  """Return the labels that a network predicts for its training set.

  The images are not augmented.

  Returns:
    int32 [N], in the order of the training set.
  """
  batches = run.outcomes(run.dataset, "train")
  return np.concatenate([batch["prediction"] for batch in batches])


def clean_labels(run: TrainedRun) -> np.ndarray:
  """Return the clean labels of the training set of a run, int32 [N]."""
  return np.concatenate(
    [
      batch["label"][batch["mask"] > 0]
      for batch in run.dataset.eval_batches("train")
    ]
  )
