"""The programs of runs that train together, each compiled once for all."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sam_jax.runs.compilation import quick_compilation
from sam_jax.training import build, hyperparameters, input_pipeline, parallel
from sam_jax.training.hooks import RunContext, means_of_sums
from sam_jax.training.input_pipeline import Batch
from sam_jax.training.loop import step_of
from sam_jax.training.losses import LOSSES
from sam_jax.training.runs_axis import over_runs, stack
from sam_jax.training.state import TrainState
from sam_jax.training.step import create_state, eval_step


class Programs:
  """The programs of runs whose configs differ only in numbers.

  Attributes:
    step: (state, batch, numbers) -> (state, metrics), leaves [runs, ...] except
      those of the batch, [devices, runs, ...].
  """

  def __init__(self, run: RunContext, check_stop: Callable[[], None]):
    """Prepare the programs; they are compiled at their first use.

    Args:
      run: One of the runs.
      check_stop: Raises `StoppedError` if the runs are asked to stop.
    """
    self._check_stop = check_stop
    self._config, self._dataset = run.config, run.dataset
    self._model = run.parts.model
    step = step_of(
      run.config,
      run.dataset.spec,
      run.dataset.steps_per_epoch,
      jax.device_count(),
    )
    self.step = parallel.map_train_step(
      functools.partial(
        over_runs, step, unroll=build.is_slow_in_loops(run.config)
      ),
      constants=1,
    )
    self._create_state = jax.jit(
      self._create_state_of, compiler_options=quick_compilation()
    )
    self._augment = parallel.map_over_devices(
      self._augment_all, in_axes=(0, None, None), out_axes=0
    )
    self._evaluate = parallel.map_eval_step(self._evaluate_all)

  def create_state(self, config: ConfigDict) -> TrainState:
    """Return the state of one run at step 0."""
    return self._create_state(hyperparameters.extract(config))

  def train_batches(
    self, runs: Sequence[RunContext], first_step: int, last_step: int
  ) -> Iterator[Batch]:
    """Return (step, augmented batch of all runs), prepared two steps ahead.

    Args:
      runs: The runs; each has its own order of examples and random key.
      first_step: The first step.
      last_step: The step after the last one.

    Returns:
      The step, and its `image` float32 [devices, runs, n, H, W, C] and `target`
      float32 [devices, runs, n, classes].
    """
    keys = [input_pipeline.augmentation_key(run.config) for run in runs]
    keys = parallel.replicate(stack(keys))
    streams = [run.dataset.train_batches(first_step) for run in runs]
    return input_pipeline.prepare_ahead(
      (step, self._augment(_next_batch(streams), np.int32(step), keys))
      for step in range(first_step, last_step)
    )

  def previews(self, batch: Batch) -> list[np.ndarray]:
    """Return augmented images of each run, see `input_pipeline.to_pixels`."""
    images = parallel.fetch(batch[1]["image"])
    spec = self._dataset.spec
    return [
      input_pipeline.to_pixels(images[:, i], spec)
      for i in range(images.shape[1])
    ]

  def means(self, state: Any, split: str) -> dict[str, float]:
    """Evaluate the states of all runs at once, and return the means of one.

    Args:
      state: The `StateOfRun` of that run.
      split: "test" or "train".
    """
    cache = state.of_all.cache
    if split not in cache:
      variables = state.of_all.state.eval_variables()
      sums = []
      for batch in self._dataset.eval_batches(split):
        self._check_stop()
        sums.append(self._evaluate(variables, parallel.shard(batch)))
        jax.block_until_ready(sums[-2:][0])
      cache[split] = jax.device_get(sums)
    return means_of_sums(
      [{k: v[state.index] for k, v in sums.items()} for sums in cache[split]]
    )

  def _create_state_of(self, numbers):
    config, spec = (
      hyperparameters.insert(self._config, numbers),
      self._dataset.spec,
    )
    parts = build.parts(
      config, spec, self._dataset.steps_per_epoch, jax.device_count()
    )
    return create_state(parts, spec.image_shape, config.seed)

  def _augment_all(self, batch, step, keys):
    augment = input_pipeline.augment_fn(self._config, self._dataset.spec)
    # The devices share the first axis, that of examples.
    batch = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch)
    return over_runs(lambda own, key: augment(own, step, key), batch, keys)

  def _evaluate_all(self, variables, batch):
    preprocess = build.preprocess_fn(self._dataset.spec)
    loss = LOSSES[self._config.loss]
    return over_runs(
      lambda own: eval_step(own, batch, self._model, preprocess, loss),
      variables,
    )


def _next_batch(streams: Sequence[Iterator[Any]]) -> Any:
  """Return the next batch of all runs, leaves [devices, n, runs, ...]."""
  return parallel.shard(stack([next(stream) for stream in streams], axis=1))
