"""The story of a run, from a config to trained weights."""

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax.config.schema import ConfigError, check_pretrained
from sam_jax.models.pretrained import load_pretrained, read_checkpoint
from sam_jax.runs import distributed
from sam_jax.runs import workdir as workdir_lib
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.runs.logging import MetricsWriter, image_grid
from sam_jax.runs.preemption import StopRequest
from sam_jax.runs.profiling import Profiler
from sam_jax.training import build, input_pipeline, parallel
from sam_jax.training.hooks import (
  Evaluate,
  Hook,
  LogMetrics,
  RunContext,
  SaveCheckpoint,
)
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
    extra_hooks: Builders of further hooks, which act before a state is saved.

  Returns:
    The last evaluation, by metric, or None if the run was asked to stop.

  Raises:
    ConfigError, DatasetError: The run can't start; one line says why.
    DivergedError: Loss or gradient is no longer finite.
    WorkdirLostError: The workdir was removed, or the disk is full.
  """
  distributed.check_same(config, workdir)
  config = build.validate(config, jax.device_count())
  with contextlib.ExitStack() as stack:
    workdir = stack.enter_context(workdir_lib.claim(workdir, config))
    if not workdir_lib.has_begun(workdir):
      check_pretrained(config)
    dataset = input_pipeline.create_dataset_on_all_hosts(config)
    steps_per_epoch = dataset.steps_per_epoch
    total_steps = config.num_epochs * steps_per_epoch
    profiler = stack.enter_context(
      Profiler(config.profile, total_steps, workdir)
    )
    checkpoints = Checkpoints(
      workdir / "checkpoints",
      [e * steps_per_epoch for e in config.keep_checkpoints_at_epochs],
    )
    stack.callback(checkpoints.close)

    parts = build.parts(
      config, dataset.spec, steps_per_epoch, jax.device_count()
    )
    step_fn = parallel.map_train_step(
      functools.partial(train_step, parts=parts)
    )
    state = initial_state(config, dataset, parts, checkpoints)
    first_step = int(state.step)
    state = parallel.replicate(state)

    writer = open_writer(config, workdir, dataset, first_step, total_steps)
    if writer:
      stack.callback(writer.close)
    run = RunContext(config, workdir, dataset, parts, checkpoints, writer)
    log = LogMetrics(run)
    evaluate = Evaluate(run, log)
    hooks = [
      profiler,
      log,
      evaluate,
      *(hook(run, log) for hook in extra_hooks),
      SaveCheckpoint(run, log),
    ]

    stop = stack.enter_context(StopRequest())
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

    if first_step == total_steps:
      logger.info("This run is finished: %s", workdir)
      if (workdir / "result.json").exists():
        return None
      evaluate.evaluate(total_steps, state)  # killed just before its result
    if jax.process_index() == 0:
      workdir_lib.write_result(workdir, evaluate.result)
    return evaluate.result


def initial_state(
  config: ConfigDict,
  dataset: input_pipeline.Dataset,
  parts: build.Parts,
  checkpoints: Checkpoints,
) -> TrainState:
  """Return the state of the newest checkpoint, or a fresh one.

  Raises:
    ConfigError: The pretrained parameters are not those of the network.
  """
  state = create_state(parts, dataset.spec.image_shape, config.seed)
  restored = checkpoints.restore_latest(state)
  if restored is not None:
    logger.info("Resuming from the checkpoint at step %d.", restored.step)
    return restored
  if config.pretrained:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    try:
      checkpoint = read_checkpoint(config.pretrained)
      variables, report = load_pretrained(checkpoint, variables)
    except (OSError, ValueError) as error:
      raise ConfigError(f"config.pretrained: {error}") from error
    logger.info("%s", report)
    state = state.with_variables(variables)
  logger.info(
    "%s on %s: %s parameters, %d steps of %d examples, m = %s, on %d %s"
    " device(s). The first step is compiled now.",
    config.model.name,
    config.dataset.name,
    f"{sum(w.size for w in jax.tree.leaves(state.params)):,}",
    config.num_epochs * dataset.steps_per_epoch,
    config.batch_size,
    config.sam.m,
    jax.device_count(),
    jax.default_backend(),
  )
  return state


def open_writer(
  config: ConfigDict,
  workdir: epath.Path,
  dataset: input_pipeline.Dataset,
  first_step: int,
  total_steps: int,
) -> MetricsWriter | None:
  """Open the logs; a new run starts with its config and some images.

  Returns:
    The writer, or None on other processes than the first, and for a finished
    run, whose logs are complete.
  """
  if first_step == total_steps:
    return None
  images = None
  if first_step == 0:  # a program that all hosts must run
    images = input_pipeline.preview_images(config, dataset)
  if jax.process_index() != 0:
    return None
  writer = MetricsWriter(workdir, first_step)
  if images is not None:
    writer.config(workdir_lib.to_dict(config))
    writer.image(0, "train/augmented_images", image_grid(images))
  return writer
