"""The state of a run: everything that a step reads, changes and resumes."""

from typing import Any

import flax
import jax
import jax.numpy as jnp


class Metrics(flax.struct.PyTreeNode):
  """Weighted sums of a step's scalars over the steps of a log interval."""

  sums: dict[str, jax.Array]  # float32 ()
  weights: dict[str, jax.Array]  # float32 ()
  diverged_at: jax.Array  # int32 (); first step with a non-finite value, or -1

  @classmethod
  def empty(cls, names: tuple[str, ...]) -> "Metrics":
    """Return sums over no steps, for scalars of these names."""
    zeros = {name: jnp.zeros((), jnp.float32) for name in names}
    return cls(zeros, dict(zeros), jnp.full((), -1, jnp.int32))

  def add(
    self,
    step: jax.Array,
    values: dict[str, jax.Array],
    is_measured: dict[str, jax.Array],
  ) -> "Metrics":
    """Add the scalars of one step.

    Args:
      step: int32 (), the step that they belong to.
      values: float32 () by name.
      is_measured: bool () for scalars that some steps do not measure; the
        others are always measured and must be finite.

    Returns:
      The new sums.
    """
    sums, weights, is_finite = {}, {}, jnp.array(True)
    for name, value in values.items():
      is_here = is_measured.get(name)
      if is_here is None:
        is_here = jnp.array(True)
        is_finite &= jnp.isfinite(value)
      sums[name] = self.sums[name] + jnp.where(is_here, value, 0.0)
      weights[name] = self.weights[name] + is_here
    is_first = ~is_finite & (self.diverged_at < 0)
    diverged_at = jnp.where(is_first, step, self.diverged_at)
    return Metrics(sums, weights, diverged_at)

  def means(self) -> dict[str, jax.Array]:
    """Return means over the steps that measured a scalar; nan if none did."""
    return {
      name: self.sums[name] / self.weights[name]  # 0 / 0: not measured
      for name in self.sums
    }


class TrainState(flax.struct.PyTreeNode):
  """State of training, unstacked and the same on every device.

  Together with the config it decides all later steps: its checkpoint resumes a
  run exactly, in the middle of an epoch and of a log interval.
  """

  step: jax.Array  # int32 (); optimizer steps taken
  params: Any  # float32 tree
  batch_stats: Any  # float32 tree; {} for networks without batch norm
  sam_state: Any  # of the method in `config.sam`
  opt_state: Any
  ema: Any  # {"params", "batch_stats"} averages, or {} if off
  metrics: Metrics  # since the last log line

  def eval_variables(self) -> dict[str, Any]:
    """Return the variables to evaluate: averages if there are any."""
    if self.ema:
      return dict(self.ema)
    return {"params": self.params, "batch_stats": self.batch_stats}

  def with_variables(self, variables: dict[str, Any]) -> "TrainState":
    """Return the same state with other parameters and batch statistics."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    averages = {"params": params, "batch_stats": batch_stats}
    ema = averages if self.ema else {}
    return self.replace(params=params, batch_stats=batch_stats, ema=ema)
