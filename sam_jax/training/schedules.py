"""Schedules of the learning rate and of rho.

Both have the same fields, those of `config/schedule_fields.py`. The schedules
of Optax refuse a number of steps that is an argument of the program, as epochs
are here; tests compare with them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sam_jax.config.field_type import ConfigError
from sam_jax.training.hyperparameters import is_zero

# An exponential schedule ends at this fraction of the peak unless a config says
# otherwise, as in google-research/sam, after the EfficientNet paper.
EXPONENTIAL_END = 0.012


def learning_rate_schedule(
  config: ConfigDict, steps_per_epoch: int, num_epochs: float
) -> optax.Schedule:
  """Return the learning rate as a function of the step.

  With T steps from `schedule_start` to `schedule_end`, t of them done, "cosine"
  is lr/2 (1 + cos(pi t/T)), "exponential" lr 0.012^(t/T), "linear" lr (1 -
  t/T), "constant" lr, and "step" lr times a factor for every step. A warm-up of
  w > 0 epochs multiplies any of them by min(t / (w steps_per_epoch), 1), from
  the first step of the run on. The first two and the warm-up are those of
  google-research/sam.

  Args:
    config: `config.optimizer`.
    steps_per_epoch: Optimizer steps in an epoch.
    num_epochs: Epochs of the whole run.

  Returns:
    step -> float32 ().
  """
  peak, lowest = config.learning_rate, config.learning_rate_min
  start, end = _span(config, num_epochs * steps_per_epoch)
  warmup = config.warmup_epochs * steps_per_epoch

  def schedule(step):
    t = jnp.asarray(step, jnp.float32)
    share = _share_of_peak(config, peak, lowest, t, start, end)
    if not is_zero(config.warmup_epochs):
      share *= jnp.minimum(t / warmup, 1)
    return peak * share

  return schedule


def rho_schedule(
  config: ConfigDict, learning_rate: optax.Schedule, steps_per_epoch: int
) -> optax.ScalarOrSchedule:
  """Return the radius: a number, or a function of the step.

  It has the schedules of `learning_rate_schedule`, but is 0 before
  `schedule_start` and from `schedule_end` on, and warms up from
  `schedule_start` on. "learning_rate" follows the learning rate as in GSAM:
  rho_t = rho_min + (rho - rho_min) * (lr_t - lr_min) / (lr_max - lr_min), where
  lr_min is the value at the end of the schedule. A learning rate that warms up
  from below lr_min has a rho below rho_min, but not below 0. If the learning
  rate does not fall, rho_t = rho, as in the authors' code.

  Args:
    config: The whole config.
    learning_rate: Learning rate by step.
    steps_per_epoch: Optimizer steps in an epoch.

  Reference: Zhuang et al. (ICLR 2022), arXiv:2203.08065; code:
  google-research/big_vision, trainers/proj/gsam/gsam.py.
  """
  fields, peak_rate = config.sam, config.optimizer.learning_rate
  kind, rho, lowest = fields.schedule, fields.rho, fields.rho_min
  # A learning rate of 0 stays 0: no training, and no schedule to follow.
  if kind == "learning_rate" and is_zero(peak_rate):
    kind = "constant"
  bounds = fields.schedule_start, fields.schedule_end
  has_warmup = not is_zero(fields.warmup_epochs)
  is_constant = kind == "constant" and bounds == (None, None) and not has_warmup
  if is_constant or is_zero(rho):
    return rho
  total = config.num_epochs * steps_per_epoch
  start, end = _span(fields, total)
  warmup = fields.warmup_epochs * steps_per_epoch

  def schedule(step):
    t = jnp.asarray(step, jnp.float32)
    if kind == "learning_rate":
      base = 0.0 if lowest is None else lowest
      last_rate = _last_learning_rate(config.optimizer, total)
      share = (learning_rate(step) - last_rate) / (peak_rate - last_rate)
      value = jnp.maximum(base + (rho - base) * share, 0)
      value = jnp.where(last_rate < peak_rate, value, rho)
    else:
      value = rho * _share_of_peak(fields, rho, lowest, t, start, end)
    if has_warmup:
      value *= jnp.clip((t - start) / warmup, 0, 1)
    if bounds == (None, None):
      return value
    return jnp.where((t >= start) & (t < end), value, 0)

  return schedule


def _last_learning_rate(fields: ConfigDict, total: Any) -> jax.Array:
  """Return the learning rate after `total` steps, without its warm-up."""
  peak, lowest = fields.learning_rate, fields.learning_rate_min
  start, end = _span(fields, total)
  last = jnp.asarray(total, jnp.float32)
  return peak * _share_of_peak(fields, peak, lowest, last, start, end)


def check_window(config: ConfigDict, steps_per_epoch: int) -> None:
  """Check that the window of rho's schedule has a step in it.

  Args:
    config: The whole config.
    steps_per_epoch: Optimizer steps in an epoch.

  Raises:
    ConfigError: It has none: the run would be one of plain descent.
  """
  if is_zero(config.sam.rho):
    return
  total = config.num_epochs * steps_per_epoch
  start, end = _span(config.sam, total)
  if math.ceil(start) >= min(end, total):
    raise ConfigError(
      f"config.sam.schedule_start = {config.sam.schedule_start} and"
      f" schedule_end = {config.sam.schedule_end} have none of the {total}"
      " steps between them: widen them, or set config.sam.rho = 0 for plain"
      " descent."
    )


def _span(fields, total):
  """Return the steps at which a schedule starts and ends."""
  start, end = fields.schedule_start, fields.schedule_end
  start = 0 if start is None or is_zero(start) else start * total
  return start, total if end is None else end * total


def _share_of_peak(fields, peak, lowest, t, start, end) -> jax.Array:
  """Return the value at step `t` as a share of the peak."""
  is_whole_run = fields.schedule_start is None and fields.schedule_end is None
  length = end
  if not is_whole_run:
    t, length = jnp.clip(t, start, end) - start, end - start
  if fields.schedule == "exponential":
    log_end: Any = math.log(EXPONENTIAL_END)
    if lowest is not None:
      log_end = jnp.log(lowest / peak)
    return jnp.exp(log_end * t / length)
  if fields.schedule == "step":
    boundaries = jnp.asarray(fields.step_at, jnp.float32) * length
    return fields.step_factor ** jnp.sum(t >= boundaries, dtype=jnp.float32)
  if fields.schedule == "constant":
    return jnp.ones_like(t)
  if fields.schedule == "cosine":
    share = 0.5 * (1 + jnp.cos(jnp.pi * t / length))
  else:
    share = 1 - t / length
  if lowest is not None and not is_zero(lowest):
    share = lowest / peak + (1 - lowest / peak) * share
  return share
