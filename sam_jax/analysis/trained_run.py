"""From the directory of a run to its network and its data."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict

from sam_jax import buckets, paths
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
from sam_jax.runs import workdir as workdir_lib
from sam_jax.runs.checkpoint_errors import reading
from sam_jax.runs.checkpoints import SavedCheckpoints
from sam_jax.training import build, parallel
from sam_jax.training.input_pipeline import Dataset, create_dataset
from sam_jax.training.step import create_state


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """The network of a run at one of its checkpoints.

  Attributes:
    workdir: Directory of the run.
    config: Its config, complete.
    step: Training steps before the checkpoint.
    dataset: Its data set.
    model: Its network.
    variables: `params` and `batch_stats`, NumPy arrays; running averages of the
      parameters if the run has them.
  """

  workdir: epath.Path
  config: ConfigDict
  step: int
  dataset: Dataset
  model: nn.Module
  variables: dict[str, Any]

  @property
  def params(self) -> Any:
    """The parameters, a tree of NumPy arrays."""
    return self.variables["params"]

  @functools.cached_property
  def variable_losses(self) -> ExampleLosses:
    """The losses of examples as a function of parameters and statistics."""
    return network_losses(self.model, build.preprocess_fn(self.dataset.spec))

  def example_losses(self, params: Any, batch: dict[str, Any]) -> jax.Array:
    """Return the losses of examples, with the run's batch statistics.

    Args:
      params: A tree like `self.params`.
      batch: `image` uint8 [n, H, W, C] and `label` int [n].

    Returns:
      float32 [n].
    """
    return self.variable_losses({**self.variables, "params": params}, batch)

  def examples(
    self, split: str, limit: int | None = None
  ) -> dict[str, np.ndarray]:
    """Return the first examples of a split, see `objective.first_examples`."""
    return first_examples(self.dataset, split, limit)


def load_run(workdir: epath.PathLike, step: int | None = None) -> TrainedRun:
  """Load a checkpoint of a run, finished or not.

  Nothing in the directory changes: the run may still be training.

  Args:
    workdir: Directory that `sam_jax.train` wrote.
    step: Step of a checkpoint that was kept; None for the newest.

  Raises:
    ConfigError: There is no run, it has no such checkpoint, or this code can't
      read it.
    WorkdirLostError: The disk or the network fails.
  """
  workdir = paths.resolve(workdir)
  buckets.check(workdir, "--workdir", for_checkpoints=True)
  config = _read_config(workdir)
  checkpoints = SavedCheckpoints(workdir / "checkpoints")
  steps = checkpoints.steps()
  if not steps:
    raise _no_checkpoints(workdir)
  if step is not None and step not in steps:
    raise ConfigError(
      f"--workdir={workdir} has no checkpoint of step {step}. Kept:"
      f" {', '.join(map(str, steps))}."
    )
  dataset = create_dataset(config)
  # Evaluation does not use m, and every m fits one device.
  parts = build.parts(
    config, dataset.spec, dataset.steps_per_epoch, num_devices=1
  )
  template = create_state(parts, dataset.spec.image_shape, config.seed)
  if step is None:
    state = checkpoints.restore_latest(template)
  else:
    state = checkpoints.restore(template, step)
  if state is None:
    raise _no_checkpoints(workdir)
  return TrainedRun(
    workdir,
    config,
    int(state.step),
    dataset,
    parts.model,
    state.eval_variables(),
  )


def _read_config(workdir: epath.Path) -> ConfigDict:
  """Return the config of a run, with defaults for fields that it lacks."""
  with reading(workdir):
    fields = workdir_lib.read_config(workdir)
  if fields is None:
    raise ConfigError(
      f"--workdir={workdir} holds no run: no config.json. Name a directory that"
      " sam_jax.train wrote."
    )
  workdir_lib.check_known_fields(workdir, fields)
  check_values(dict(flatten(fields)), f"{workdir / 'config.json'}: ")
  config = ConfigDict(default_config().to_dict())
  config.update(ConfigDict(fields))
  return config


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
  preprocess = build.preprocess_fn(run.dataset.spec)

  def predict(variables, images):
    logits = run.model.apply(variables, preprocess(images), train=False)
    return jnp.argmax(jnp.asarray(logits), axis=-1)

  predict = parallel.map_over_devices(predict, in_axes=(None, 0), out_axes=0)
  variables = parallel.replicate(run.variables)
  labels = []
  for batch in run.dataset.eval_batches("train"):
    images, mask = batch["image"], batch["mask"]
    # The run may have had other devices, whose number divides the batch.
    padding = -len(images) % jax.local_device_count()
    padded = np.pad(images, [(0, padding)] + [(0, 0)] * (images.ndim - 1))
    shards = parallel.shard(padded)
    predicted = np.concatenate(jax.device_get(predict(variables, shards)))
    labels.append(predicted[: len(mask)][mask > 0])
  return np.concatenate(labels).astype(np.int32)


def clean_labels(run: TrainedRun) -> np.ndarray:
  """Return the clean labels of the training set of a run, int32 [N]."""
  return np.concatenate(
    [
      batch["label"][batch["mask"] > 0]
      for batch in run.dataset.eval_batches("train")
    ]
  )
