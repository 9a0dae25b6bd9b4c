"""The story of a run, from a config to trained weights."""

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax.config.schema import check_pretrained
from sam_jax.runs import distributed, trained_weights, watchdog
from sam_jax.runs import workdir as workdir_lib
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.runs.preemption import StopRequest
from sam_jax.runs.profiling import Profiler
from sam_jax.training import build, hyperparameters, input_pipeline, parallel
from sam_jax.training.hooks import (
  DivergedError,
  Evaluate,
  Hook,
  LogMetrics,
  RunContext,
  SaveCheckpoint,
  open_writer,
)
from sam_jax.training.start import initial_state
from sam_jax.training.state import TrainState
from sam_jax.training.step import train_step

logger = logging.getLogger(__name__)

ExtraHook = Callable[[RunContext, LogMetrics], Hook]


def train_and_evaluate(
  config: ConfigDict,
  workdir: epath.PathLike,
  extra_hooks: Sequence[ExtraHook] = (),
) -> dict[str, float] | None:
  """Train a network, or resume where an earlier process stopped.

  Args:
    config: A config, see `sam_jax.config.schema`.
    workdir: Directory of config.json, metrics.jsonl, TensorBoard's events,
      checkpoints/ and, once finished, result.json.
    extra_hooks: Builders of further hooks, which act after a state is saved,
      such as `sam_jax.analysis.hook.AnalysisHook` for `config.analysis`. A
      process that resumes calls them for the step of its checkpoint, too.

  Returns:
    The last evaluation, by metric, or None if the run was asked to stop.

  Raises:
    ConfigError, DatasetError: The run can't start; one line says why.
    DivergedError: Loss or gradient is no longer finite.
    WorkdirLostError: The workdir was removed, or the disk is full.
  """
  distributed.check_same(config, workdir)
  config = trained_weights.pin(config, workdir)
  config = build.validate(config, jax.device_count())
  if config.analysis.every_epochs and not extra_hooks:
    logger.warning(
      "config.analysis.every_epochs = %d has no effect without a hook that"
      " measures: extra_hooks=[sam_jax.analysis.hook.AnalysisHook].",
      config.analysis.every_epochs,
    )
  with contextlib.ExitStack() as stack:
    workdir = stack.enter_context(workdir_lib.claim(workdir, config))
    if not workdir_lib.has_begun(workdir):
      check_pretrained(config)
    dataset = input_pipeline.create_dataset_on_all_hosts(config)
    steps_per_epoch = dataset.steps_per_epoch
    total_steps = config.num_epochs * steps_per_epoch
    profiler = Profiler(config.profile, total_steps, workdir)
    # Entered early and left late: no signal cuts off the last checkpoint.
    stop = stack.enter_context(StopRequest())
    checkpoints = Checkpoints(
      workdir / "checkpoints",
      [e * steps_per_epoch for e in config.keep_checkpoints_at_epochs],
    )
    stack.push(functools.partial(_close, checkpoints))
    watchdog.check_regularly(checkpoints.check)

    parts = build.parts(
      config, dataset.spec, steps_per_epoch, jax.device_count()
    )
    step_fn = _map_step(config, dataset)
    state = initial_state(config, dataset.spec, parts, checkpoints)
    first_step = int(state.step)
    state = parallel.replicate(state)
    if first_step == total_steps:
      logger.info("This run is finished: %s", workdir)
      if (workdir / "result.json").exists():
        return None

    writer = open_writer(config, workdir, dataset, first_step)
    if writer:
      stack.enter_context(writer)
    run = RunContext(
      config, workdir, dataset, parts, checkpoints, writer, first_step
    )
    log = LogMetrics(run)
    evaluate = Evaluate(run, log)
    measurements: list[Hook] = [
      evaluate,
      *(hook(run, log) for hook in extra_hooks),
    ]
    # Save before measuring: measurements may take longer than the notice of a
    # preemption, and a resumed run makes those that are missing.
    hooks: list[Hook] = [
      profiler,
      log,
      SaveCheckpoint(run, log),
      *measurements,
    ]

    stop.listen()
    stack.enter_context(profiler)
    if first_step:
      for hook in measurements:
        hook(first_step, state, {}, False)
    profiler.reach(first_step, state)
    batches = input_pipeline.train_batches(
      config, dataset, first_step, total_steps
    )
    for step, batch in batches:
      state, metrics = step_fn(state, batch)
      done = step + 1
      is_stopping = stop.is_due(done)
      for hook in hooks:
        hook(done, state, metrics, is_stopping or done == total_steps)
      if is_stopping and done < total_steps:
        logger.info(
          "Stopped at step %d of %d; the same command resumes from here.",
          done,
          total_steps,
        )
        return None

    checkpoints.close()  # a run with a result has its last checkpoint, too
    if writer and evaluate.result:
      workdir_lib.check_present(workdir)
      writer.mark_finished()
      writer.close()  # a run with a result is finished: its logs are complete
      workdir_lib.write_result(workdir, evaluate.result)
    return evaluate.result


def _map_step(
  config: ConfigDict, dataset: input_pipeline.Dataset
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
  """Compile (state, batch) -> (state, metrics) for all devices.

  Numbers of the config are arguments of the program: runs that differ only in
  them share it, so that a sweep over them compiles once.
  """

  def step(state, batch, numbers):
    parts = build.parts(
      hyperparameters.insert(config, numbers),
      dataset.spec,
      dataset.steps_per_epoch,
      jax.device_count(),
    )
    return train_step(state, batch, parts)

  program = parallel.map_train_step(step, constants=1)
  numbers = parallel.replicate(hyperparameters.extract(config))
  return lambda state, batch: program(state, batch, numbers)


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
