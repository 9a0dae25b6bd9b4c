"""Prepare a run for its first step: its parts, and its state."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax import paths, wording
from sam_jax.config.schema import ConfigError
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.pretrained.checkpoint import Checkpoint
from sam_jax.pretrained.fitting import load_pretrained
from sam_jax.runs import (
  dataset_record,
  distributed,
  trained_weights,
  watchdog,
)
from sam_jax.runs import workdir as workdir_lib
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.training import build, input_pipeline, schedules
from sam_jax.training.hooks import DivergedError, RunContext
from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts, create_state

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_run(
  config: ConfigDict, workdir: epath.PathLike
) -> Iterator[RunContext]:
  """Check a config, claim its workdir, and load its data.

  Args:
    config: A config, see `sam_jax.config.schema`.
    workdir: Directory of the run.

  Yields:
    The run, without logs; its checkpoints are complete after the context.

  Raises:
    ConfigError, DatasetError: The run can't start; one line says why.
    WorkdirLostError: The workdir was removed, or the disk is full.
  """
  distributed.check_same(config, workdir)
  config = trained_weights.pin(config, workdir)
  config = build.validate(config, jax.device_count())
  trained_weights.check(config, workdir)  # before anything is written
  weights = _read_weights(config, workdir)
  with contextlib.ExitStack() as stack:
    path = stack.enter_context(workdir_lib.claim(workdir, config))
    dataset = input_pipeline.create_dataset_on_all_hosts(config)
    dataset_record.keep(path, dataset, config.dataset.data_dir)
    checkpoints = Checkpoints(
      path / "checkpoints",
      [e * dataset.steps_per_epoch for e in config.keep_checkpoints_at_epochs],
    )
    stack.push(functools.partial(_close, checkpoints))
    watchdog.check_regularly(checkpoints.check)
    schedules.check_window(config, dataset.steps_per_epoch)
    parts = build.parts(
      config, dataset.spec, dataset.steps_per_epoch, jax.device_count()
    )
    yield RunContext(config, path, dataset, parts, checkpoints, weights=weights)


def _read_weights(
  config: ConfigDict, workdir: epath.PathLike
) -> Checkpoint | None:
  """Read the weights that a new run starts from; a run that resumes has none.

  Raises:
    ConfigError: They are not those of the network, or can't be read.
  """
  if not config.pretrained or workdir_lib.has_begun(paths.resolve(workdir)):
    return None
  checkpoint = trained_weights.read(config.pretrained)
  spec = build.dataset_spec(config)
  parts = build.parts(config, spec, 1, jax.device_count())
  _fit(checkpoint, jax.eval_shape(lambda: _variables(parts, spec, config.seed)))
  return checkpoint


def _variables(parts: Parts, spec: DatasetSpec, seed: int) -> dict[str, Any]:
  state = create_state(parts, spec.image_shape, seed)
  return {"params": state.params, "batch_stats": state.batch_stats}


def _fit(
  checkpoint: Checkpoint, variables: dict[str, Any]
) -> tuple[dict[str, Any], str]:
  """Return variables of a checkpoint, and a line that reports them.

  Raises:
    ConfigError: They are not those of the network.
  """
  try:
    return load_pretrained(checkpoint, variables)
  except ValueError as error:
    raise ConfigError(f"config.pretrained: {error}") from error


def _close(checkpoints: Checkpoints, kind: type | None, *_: object) -> None:
  """Complete the checkpoints at the end of a context.

  Args:
    checkpoints: The checkpoints of the run.
    kind: Type of the exception that ends the context, if one does. Divergence
      happens in all processes. Another failure happens in one of several: then
      the others no longer take part, and waiting for them would not end.
  """
  has_failed_alone = jax.process_count() > 1 and kind is not DivergedError
  if kind is None or not has_failed_alone:
    checkpoints.close()


def initial_state(
  config: ConfigDict,
  fresh: TrainState,
  checkpoints: Checkpoints,
  weights: Checkpoint | None = None,
) -> TrainState:
  """Return the state of the newest checkpoint, or a fresh one.

  Args:
    config: Config of the run.
    fresh: Its state at step 0, with random parameters.
    checkpoints: Its checkpoints.
    weights: Those of `config.pretrained`; None if they are not read yet.

  Raises:
    ConfigError: The pretrained parameters are not those of the network, or
      can't be read.
    WorkdirLostError: The disk or the network fails.
  """
  state = fresh
  restored = checkpoints.restore_latest(fresh)
  if restored is not None:
    logger.info("Resuming from the checkpoint at step %d.", restored.step)
    return restored
  if config.pretrained:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    weights = weights or trained_weights.read(config.pretrained)
    variables, report = _fit(weights, variables)
    logger.info("%s", report)
    state = state.with_variables(variables)
  logger.info(
    "%s on %s: %s parameters, %s in batches of %d, m = %s, on %s. Compiling the"
    " first step.",
    config.model.name,
    config.dataset.name,
    f"{sum(w.size for w in jax.tree.leaves(state.params)):,}",
    wording.count(config.num_epochs, "epoch"),
    config.batch_size,
    config.sam.m,
    wording.count(jax.device_count(), f"{jax.default_backend()} device"),
  )
  return state
