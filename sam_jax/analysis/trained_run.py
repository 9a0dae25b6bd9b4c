"""Finding what a run has learnt: from a workdir to a network and its data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sam_jax.analysis.objective import (
  ExampleLosses,
  first_examples,
  network_losses,
)
from sam_jax.config.schema import (
  ConfigError,
  check_fields,
  default_config,
)
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.runs.workdir import read_config
from sam_jax.training import build, parallel
from sam_jax.training.input_pipeline import create_dataset
from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts, create_state


class TrainedRun(NamedTuple):
  """A run as its newest checkpoint left it."""

  workdir: epath.Path
  config: ConfigDict
  step: int
  dataset: Any  # batches, as the run itself saw them
  variable_losses: ExampleLosses  # of params and batch_stats, in evaluation
  variables: dict[str, Any]  # the averaged ones where the run averaged them

  @property
  def params(self) -> Any:
    """The parameters."""
    return self.variables["params"]

  def example_losses(self, params: Any, batch: dict[str, Any]) -> jax.Array:
    """Loss of each example, float32 [n], with the run's batch statistics."""
    return self.variable_losses({**self.variables, "params": params}, batch)

  def examples(
    self, split: str, limit: int | None = None
  ) -> dict[str, np.ndarray]:
    """The first examples of a split, see `objective.first_examples`."""
    return first_examples(self.dataset, split, limit)


class RestoredRun(NamedTuple):
  """A run as its newest checkpoint left it, in the terms of training."""

  config: ConfigDict
  dataset: Any
  parts: Parts
  state: TrainState


def restore_run(
  workdir: epath.PathLike, step: int | None = None
) -> RestoredRun:
  """Restores a checkpoint of a run, finished or not.

  Args:
    workdir: Directory that `sam_jax.train` wrote.
    step: Of a checkpoint that was kept; None for the newest.

  Raises:
    ConfigError: There is no run, or it has no such checkpoint.
  """
  workdir = epath.Path(workdir)
  fields = read_config(workdir)
  if fields is None:
    raise ConfigError(
      f"--workdir={workdir} holds no run: no config.json. Name a directory that"
      " sam_jax.train wrote."
    )
  config = ConfigDict(default_config().to_dict())  # an older run lacks some
  config.update(ConfigDict(fields))
  check_fields(config)
  if not (workdir / "checkpoints").exists():
    raise _no_checkpoints(workdir)
  dataset = create_dataset(config)
  # Its m, which evaluation does not use, fits a single device at any rate.
  parts = build.parts(
    config, dataset.spec, dataset.steps_per_epoch, num_devices=1
  )
  checkpoints = Checkpoints(workdir / "checkpoints")
  template = create_state(parts, dataset.spec.image_shape, config.seed)
  if step is None:
    state = checkpoints.restore_latest(template)
  elif step in checkpoints.steps():
    state = checkpoints.restore(template, step)
  else:
    steps = ", ".join(map(str, checkpoints.steps()))
    raise ConfigError(
      f"--workdir={workdir} has no checkpoint of step {step}. Kept: {steps}."
    )
  checkpoints.close()
  if state is None:
    raise _no_checkpoints(workdir)
  return RestoredRun(config, dataset, parts, state)


def _no_checkpoints(workdir: epath.Path) -> ConfigError:
  return ConfigError(
    f"--workdir={workdir} holds a run without checkpoints. Train it further."
  )


def load_run(workdir: epath.PathLike, step: int | None = None) -> TrainedRun:
  """Loads a checkpoint of a run for its analysis.

  Args:
    workdir: Directory that `sam_jax.train` wrote.
    step: Of a checkpoint that was kept; None for the newest.

  Returns:
    The run.

  Raises:
    ConfigError: There is no run, or it has no such checkpoint.
  """
  config, dataset, parts, state = restore_run(workdir, step)
  return TrainedRun(
    epath.Path(workdir),
    config,
    int(state.step),
    dataset,
    network_losses(parts.model, build.preprocess_fn(dataset.spec)),
    state.eval_variables(),
  )


def predicted_labels(run: RestoredRun) -> np.ndarray:
  """What the network makes of the training set, without augmentation.

  Returns:
    int32 [N], in the order of the training set.
  """
  preprocess = build.preprocess_fn(run.dataset.spec)

  def predict(variables, images):
    logits = run.parts.model.apply(variables, preprocess(images), train=False)
    return jnp.argmax(logits, axis=-1)

  predict = parallel.map_over_devices(predict, in_axes=(None, 0), out_axes=0)
  variables = run.state.eval_variables()
  labels = []
  for batch in run.dataset.eval_batches("train"):
    images, mask = batch["image"], batch["mask"]
    # The run may have had another number of devices, that the batch divides by.
    padding = -len(images) % jax.local_device_count()
    padded = np.pad(images, [(0, padding)] + [(0, 0)] * (images.ndim - 1))
    shards = parallel.shard(padded)
    guesses = np.concatenate(jax.device_get(predict(variables, shards)))
    labels.append(guesses[: len(mask)][mask > 0])
  return np.concatenate(labels).astype(np.int32)
