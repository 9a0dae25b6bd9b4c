"""The story of a run, from a config to trained weights."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.runs.compilation import free_programs_if_many
from sam_jax.runs.preemption import StoppedError, StopRequest
from sam_jax.runs.profiling import Profiler
from sam_jax.training import build, hyperparameters, input_pipeline, parallel
from sam_jax.training.hooks import (
  Evaluate,
  Hook,
  LogMetrics,
  RunContext,
  SaveCheckpoint,
  open_writer,
)
from sam_jax.training.start import initial_state, open_run
from sam_jax.training.state import TrainState
from sam_jax.training.step import create_state, train_step

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
  with contextlib.ExitStack() as stack:
    stack.callback(free_programs_if_many)
    stop = stack.enter_context(StopRequest())
    run = stack.enter_context(open_run(config, workdir))
    config, dataset, total_steps = run.config, run.dataset, run.total_steps
    if config.analysis.every_epochs and not extra_hooks:
      logger.warning(
        "config.analysis.every_epochs = %d has no effect without a hook that"
        " measures: extra_hooks=[sam_jax.analysis.hook.AnalysisHook].",
        config.analysis.every_epochs,
      )
    profiler = Profiler(config.profile, total_steps, run.workdir)

    step_fn = parallel.map_train_step(
      step_of(
        config, dataset.spec, dataset.steps_per_epoch, jax.device_count()
      ),
      constants=1,
    )
    numbers = parallel.replicate(hyperparameters.extract(config))
    fresh = create_state(run.parts, dataset.spec.image_shape, config.seed)
    state = initial_state(config, fresh, run.checkpoints, run.weights)
    first_step = int(state.step)
    state = parallel.replicate(state)
    if first_step == total_steps:
      logger.info("This run is finished: %s", run.workdir)
      if (run.workdir / "result.json").exists():
        return None

    batches = input_pipeline.train_batches(
      config, dataset, first_step, total_steps
    )
    images = None
    if first_step == 0:
      images, batches = input_pipeline.preview(batches, dataset.spec)
    writer = open_writer(config, run.workdir, first_step, images)
    if writer:
      stack.enter_context(writer)
    run = dataclasses.replace(
      run,
      weights=None,
      writer=writer,
      first_step=first_step,
      check_stop=stop.check,
    )
    log = LogMetrics(run)
    save, evaluate = SaveCheckpoint(run, log), Evaluate(run, log)
    measurements: list[Hook] = [
      evaluate,
      *(hook(run, log) for hook in extra_hooks),
    ]
    # Save before measuring: measurements may take longer than the notice of a
    # preemption, and a resumed run makes those that are missing.
    hooks: list[Hook] = [profiler, log, save, *measurements]

    stop.listen()
    stack.enter_context(profiler)
    done, metrics = first_step, dict[str, jax.Array]()
    try:
      if first_step:
        for hook in measurements:
          hook(first_step, state, metrics, False)
      profiler.reach(first_step, state)
      for step, batch in batches:
        state, metrics = step_fn(state, batch, numbers)
        done = step + 1
        is_stopping = stop.is_due()
        for hook in hooks:
          hook(done, state, metrics, is_stopping or done == total_steps)
        if is_stopping and done < total_steps:
          raise StoppedError
    except StoppedError:  # after a step, or within a measurement
      save(done, state, metrics, True)
      run.log_stop(done)
      return None
    run.finish(evaluate.result)
    return evaluate.result


def step_of(
  config: ConfigDict, spec: DatasetSpec, steps_per_epoch: int, num_devices: int
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
  """Build (state, batch, numbers) -> (state, metrics) of one device.

  Numbers of the config are arguments of the program: runs that differ only in
  them share it, so that a sweep over them compiles once.

  Args:
    config: A valid config.
    spec: Its data set.
    steps_per_epoch: Optimizer steps in an epoch.
    num_devices: Devices of the run, over all hosts.
  """

  def step(state, batch, numbers):
    traced = hyperparameters.insert(config, numbers)
    parts = build.parts(traced, spec, steps_per_epoch, num_devices)
    return train_step(state, batch, parts)

  return step
