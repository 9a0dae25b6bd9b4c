"""The story of a run, from a config to trained weights."""

import collections
import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sam_jax.analysis.hook import AnalysisDuringTraining
from sam_jax.config.schema import (
  ConfigError,
  check_pretrained,
  validate_config,
)
from sam_jax.datasets.catalog import STREAM
from sam_jax.datasets.in_memory import InMemoryDataset, load_in_memory
from sam_jax.datasets.streaming import StreamingDataset, load_streaming
from sam_jax.models.pretrained import load_pretrained, read_checkpoint
from sam_jax.runs import distributed
from sam_jax.runs import logging as metrics_lib
from sam_jax.runs import preemption as stopping
from sam_jax.runs import workdir as workdir_lib
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.runs.profiling import Profiler
from sam_jax.training.build import create_recipe, input_spec
from sam_jax.training.parallel import LocalDevices
from sam_jax.training.state import TrainState
from sam_jax.training.step import create_state

logger = logging.getLogger(__name__)

Dataset = InMemoryDataset | StreamingDataset

# Steps that the host may run ahead of the devices: enough to keep them busy,
# few enough to answer a preemption at once.
_RUN_AHEAD = 2


def train_and_evaluate(
  config: ConfigDict, workdir: epath.PathLike
) -> dict[str, float] | None:
  """Trains a network, or goes on where an earlier process stopped.

  Args:
    config: A config, see `config.default_config`.
    workdir: Directory of config.json, metrics.jsonl, TensorBoard's events,
      checkpoints/ and, once finished, result.json.

  Returns:
    The last evaluation, by metric, or None if the run was asked to stop.

  Raises:
    ConfigError, DatasetError: The run can't start; one line says why.
    DivergedError: Loss or gradient is not finite any more.
    WorkdirLostError: The workdir was removed, or the disk is full.
  """
  distributed.check_same(config, workdir)
  validate_config(config, jax.device_count())
  with workdir_lib.claim(workdir, config) as workdir:
    if not workdir_lib.has_begun(workdir):
      check_pretrained(config)
    dataset = _first_process_first(lambda: create_dataset(config))
    return Run(config, workdir, dataset).train()


def _first_process_first(load: Callable[[], Dataset]) -> Dataset:
  """Lets one process prepare what the others then find on a shared disk."""
  if jax.process_count() == 1:
    return load()
  if jax.process_index() == 0:
    dataset = load()
  multihost_utils.sync_global_devices("data set prepared")
  return dataset if jax.process_index() == 0 else load()


def create_dataset(config: ConfigDict) -> Dataset:
  """Loads the data set of a config, this host's view of it.

  Raises:
    DatasetError: It is not there, or can't be had as the config asks.
  """
  spec, noise = input_spec(config), config.dataset.label_noise
  fields = {
    "data_dir": config.dataset.data_dir,
    "validation_size": config.dataset.validation_size,
    "labels_path": config.dataset.label_file,
    "noise_rate": noise.rate,
    "noise_kind": noise.kind,
    "noise_seed": noise.seed,
    "batch_size": config.batch_size,
    "eval_batch_size": config.eval_batch_size or config.batch_size,
    "seed": config.seed,
    "process_index": jax.process_index(),
    "process_count": jax.process_count(),
  }
  if spec.storage == STREAM:
    # The official release crops in any case. The paper fine-tunes without.
    crops = config.augment.policy not in ("none", "aa-only")
    return load_streaming(spec, crops_at_random=crops, **fields)
  return load_in_memory(spec, **fields)


class Run:
  """A run: its parts are set up once, then `train` tells the story."""

  def __init__(self, config: ConfigDict, workdir: epath.Path, dataset: Dataset):
    self.config, self.workdir, self.dataset = config, workdir, dataset
    self.steps_per_epoch = dataset.steps_per_epoch
    self.total_steps = config.num_epochs * self.steps_per_epoch
    self.recipe = create_recipe(
      config, dataset.spec, self.steps_per_epoch, jax.device_count()
    )
    self.devices = LocalDevices()
    self.augment = self.devices.augment_fn(config, dataset.spec)
    self.train_step = self.devices.train_step_fn(self.recipe)
    self.eval_step = self.devices.eval_step_fn(self.recipe, dataset.spec)
    self.profiler = Profiler(config.profile, self.total_steps, workdir)
    self.analysis = None
    if config.analysis.every_epochs:
      self.analysis = AnalysisDuringTraining(config, self.recipe, dataset)
    self.checkpoints = Checkpoints(
      workdir / "checkpoints",
      [e * self.steps_per_epoch for e in config.keep_checkpoints_at_epochs],
    )
    self.throughput = metrics_lib.Throughput(
      config.batch_size, self.total_steps
    )
    self.pending = None  # a log line whose numbers the devices still compute
    self.evaluation = None

  def train(self) -> dict[str, float] | None:
    """Trains to the end, or until asked to stop."""
    with contextlib.closing(self.checkpoints):
      state = self._initial_state()
      first_step = int(state.step)
      if first_step == self.total_steps:
        logger.info("This run is finished: %s", self.workdir)
        self._complete_result(state)
        return None
      self.writer = self._open_writer(first_step)
      with (
        contextlib.closing(self.writer),
        stopping.StopRequest() as stop,
        self.profiler,
      ):
        finished = self._train_steps(state, first_step, stop)
    if not finished:
      return None
    if jax.process_index() == 0:
      workdir_lib.write_result(self.workdir, self.evaluation)
    return self.evaluation

  def _complete_result(self, state: TrainState) -> None:
    """Writes result.json if the run was killed just before it would have."""
    if (self.workdir / "result.json").exists():
      return
    values = self._evaluate_on(state, "test")
    if jax.process_index() == 0:
      result = {"step": self.total_steps, **values}
      workdir_lib.write_result(self.workdir, result)

  def _train_steps(self, state, first_step, stop) -> bool:
    """Runs the steps that are left; False if asked to stop before the end."""
    running = collections.deque()
    self.profiler.reach(first_step, state)
    for step, batch in self._batches(first_step):
      state, metrics = self.train_step(state, batch)
      done = step + 1
      self.profiler.reach(done, metrics)
      if step == first_step:
        jax.block_until_ready(metrics)  # compilation is no throughput
        self.throughput.restart(done)
      running.append(metrics)
      if len(running) > _RUN_AHEAD:
        jax.block_until_ready(running.popleft())
      if done % self.config.log_every_steps == 0 or done == self.total_steps:
        self._log_pending()
        self.pending = (done, metrics)
      if self._is_epoch_to_evaluate(done):
        self._log_pending()
        self._evaluate(state, done)
      if self._is_epoch_to_analyse(done):
        self._log_pending()
        self._analyse(state, done)
      is_stopping = stop.is_due(done)
      if self._is_step_to_save(done) or is_stopping:
        self._save(state, metrics, done)
      if is_stopping and done < self.total_steps:
        logger.info(
          "Stopped at step %d of %d; the same command goes on from here.",
          done,
          self.total_steps,
        )
        return False
    return True

  def _initial_state(self) -> TrainState:
    """The newest checkpoint's state, or a fresh one."""
    state = create_state(self.recipe, self.dataset.spec.image_shape)
    restored = self.checkpoints.restore_latest(state)
    if restored is not None:
      logger.info("Going on from the checkpoint at step %d.", restored.step)
      return self.devices.replicate(restored)
    if self.config.pretrained:
      state = self._load_pretrained(state)
    count = sum(w.size for w in jax.tree.leaves(state.params))
    logger.info(
      "%s on %s: %s parameters, %d steps of %d examples, m = %s, on %d %s"
      " device(s).",
      self.config.model.name,
      self.config.dataset.name,
      f"{count:,}",
      self.total_steps,
      self.config.batch_size,
      self.config.sam.m or self.config.batch_size // jax.device_count(),
      jax.device_count(),
      jax.default_backend(),
    )
    return self.devices.replicate(state)

  def _load_pretrained(self, state: TrainState) -> TrainState:
    """Puts the parameters of another run or release into a fresh state."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    try:
      checkpoint = read_checkpoint(self.config.pretrained)
      variables, report = load_pretrained(checkpoint, variables)
    except (OSError, ValueError) as error:
      raise ConfigError(f"config.pretrained: {error}") from error
    logger.info("%s", report)
    return state.with_variables(variables)

  def _open_writer(self, first_step: int):
    """Opens the logs; a new run starts with its config and some images."""
    images = self._first_images() if first_step == 0 else None
    if jax.process_index() != 0:
      return metrics_lib.NullWriter()
    writer = metrics_lib.MetricsWriter(self.workdir, first_step)
    if images is not None:
      writer.config(workdir_lib.to_dict(self.config))
      grid = metrics_lib.image_grid(images)
      writer.image(0, "train/augmented_images", grid)
    return writer

  def _first_images(self, count: int = 64) -> np.ndarray:
    """Augmented images of the first step, as uint8 [count, H, W, C]."""
    _, batch = next(self._batches(0))  # a program that all hosts must run
    images = np.concatenate(jax.device_get(batch["image"]))[:count]
    spec = self.dataset.spec
    pixels = (images * np.array(spec.std) + np.array(spec.mean)) * 255
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

  def _batches(self, first_step: int) -> Iterator[tuple[int, Any]]:
    """Yields (step, batch on the devices), prepared two steps ahead."""
    ready = collections.deque()
    batches = self.dataset.train_batches(first_step)
    for step in range(first_step, self.total_steps):
      ready.append((step, self.augment(step, next(batches))))
      if len(ready) > 2:
        yield ready.popleft()
    yield from ready

  def _is_epoch_to_evaluate(self, done: int) -> bool:
    epochs, rest = divmod(done, self.steps_per_epoch)
    is_due = rest == 0 and epochs % self.config.eval_every_epochs == 0
    return is_due or done == self.total_steps

  def _is_epoch_to_analyse(self, done: int) -> bool:
    if self.analysis is None:
      return False
    epochs, rest = divmod(done, self.steps_per_epoch)
    return rest == 0 and epochs % self.config.analysis.every_epochs == 0

  def _is_step_to_save(self, done: int) -> bool:
    every = round(self.config.checkpoint_every_epochs * self.steps_per_epoch)
    epochs, rest = divmod(done, self.steps_per_epoch)
    is_kept = rest == 0 and epochs in self.config.keep_checkpoints_at_epochs
    return done % max(every, 1) == 0 or is_kept or done == self.total_steps

  def _log_pending(self) -> None:
    """Writes the log line that waits for its numbers, if there is one."""
    if self.pending is None:
      return
    step, metrics = self.pending
    self.pending = None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    self._check_finite(step, values)
    del values["diverged_at"]
    rate, seconds_left = self.throughput.read(step)
    self.writer.scalars(step, "train", {**values, "images_per_second": rate})
    if memory := self.devices.memory():
      self.writer.scalars(step, "memory", memory)
    self.writer.flush()
    metrics_lib.log_line(
      step,
      self.total_steps,
      step / self.steps_per_epoch,
      "train",
      values,
      rate,
      seconds_left,
    )

  def _evaluate(self, state: TrainState, step: int) -> None:
    """Evaluates on the test set and, if asked to, on the training set."""
    splits = ["test", "train"] if self.config.eval_on_train else ["test"]
    for split in splits:
      values = self._evaluate_on(state, split)
      prefix = "test" if split == "test" else "clean_train"
      self.writer.scalars(step, prefix, values)
      epoch = step / self.steps_per_epoch
      metrics_lib.log_line(step, self.total_steps, epoch, prefix, values)
      if split == "test":
        self.evaluation = {"step": step, **values}
    self.writer.flush()
    self.throughput.restart(step)

  def _analyse(self, state: TrainState, step: int) -> None:
    """Measures the sharpness on a few training examples."""
    values = self.analysis.measure(state.eval_variables())
    self.writer.scalars(step, "analysis", values)
    epoch = step / self.steps_per_epoch
    metrics_lib.log_line(step, self.total_steps, epoch, "analysis", values)
    self.writer.flush()
    self.throughput.restart(step)

  def _evaluate_on(self, state: TrainState, split: str) -> dict[str, float]:
    """Means over every example of a split."""
    variables = state.eval_variables()
    sums = [
      self.eval_step(variables, self.devices.shard(batch))
      for batch in self.dataset.eval_batches(split)
    ]
    totals = jax.tree.map(lambda *x: math.fsum(x), *jax.device_get(sums))
    count = totals.pop("count")
    return {name: total / count for name, total in totals.items()}

  def _save(self, state: TrainState, metrics: Any, step: int) -> None:
    """Saves a checkpoint, after all that came before it is on record."""
    self._log_pending()
    self._check_finite(step, jax.device_get(metrics))
    self.checkpoints.save(state)
    self.throughput.restart(step)

  def _check_finite(self, step: int, values: dict[str, Any]) -> None:
    if values["diverged_at"] < 0:
      return
    kept = self.checkpoints.steps()
    raise stopping.DivergedError(
      f"Loss or gradient is not finite since step {int(values['diverged_at'])}"
      f" (noticed at {step}): learning rate {values['learning_rate']:.4g},"
      f" config.sam.rho = {self.config.sam.rho}. Last checkpoint: step"
      f" {kept[-1] if kept else 'none'}. Try a lower learning rate or rho, or"
      " gradient clipping, in a new workdir."
    )
