"""Arrays with a leading axis of runs, and the part of one run in them."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sam_jax import target
from sam_jax.training.state import TrainState


def over_runs(fn: Callable[..., Any], *trees: Any, unroll: bool = False) -> Any:
  """Apply a function of one run to trees with leaves [runs, ...].

  An accelerator does each operation for all runs at once: runs that are too
  small for it fill it together. On CPUs the runs take turns, which is as fast
  as alone: XLA's grouped convolutions are slower there.

  Args:
    fn: A function of one run.
    *trees: Its arguments, leaves [runs, ...].
    unroll: On CPUs, compile a copy of the function for every run.
  """
  if target.platform() == "cpu":
    return jax.lax.scan(
      lambda _, each: (None, fn(*each)), None, trees, unroll=unroll
    )[1]
  return jax.vmap(fn)(*trees)


def stack(trees: Sequence[Any], axis: int = 0) -> Any:
  """Return one tree with leaves [runs, ...], NumPy arrays."""
  return jax.tree.map(
    lambda *leaves: np.stack(leaves, axis), *jax.device_get(list(trees))
  )


class StepOfRuns:
  """The results of one step for all runs, which hooks of one run read.

  Nothing leaves the devices until the first hook asks. Then it comes for all
  runs in one transfer.

  Attributes:
    state: State with leaves [runs, ...] on the devices.
    cache: What one run computed for all, by name.
  """

  def __init__(self, state: TrainState, metrics: dict[str, jax.Array]):
    """Take the state and the metrics, leaves [runs, ...] on the devices."""
    self.state = state
    self.cache: dict[str, Any] = {}
    self._metrics = _Metrics(metrics)

  def state_of(self, index: int) -> Any:
    """Return the state of a run: a `StateOfRun` for a `TrainState`."""
    return StateOfRun(self, index)

  def metrics_of(self, index: int) -> Any:
    """Return the metrics of a run: `MetricsOfRun` for a dictionary."""
    return MetricsOfRun(self._metrics, index)

  @functools.cached_property
  def state_on_host(self) -> TrainState:
    """Return the state as NumPy arrays [runs, ...]."""
    return jax.device_get(self.state)


@jax.tree_util.register_pytree_node_class
class StateOfRun:
  """A `TrainState` that is fetched when a hook reads it: most steps none does.

  As a tree it has the leaves of that state, and functions of trees return a
  plain `TrainState`.
  """

  def __init__(self, step: StepOfRuns, index: int):
    """Stand for the state of a run after a step."""
    self.of_all, self.index = step, index

  @functools.cached_property
  def _state(self) -> TrainState:
    # `asarray`: the part of a vector would be a NumPy scalar, not an array.
    return jax.tree.map(
      lambda x: np.asarray(x[self.index]), self.of_all.state_on_host
    )

  def __getattr__(self, name: str) -> Any:
    return getattr(self._state, name)

  def tree_flatten(self) -> tuple[tuple[TrainState], None]:
    """Return the state as the only child."""
    return (self._state,), None

  @classmethod
  def tree_unflatten(cls, _: None, children: tuple[TrainState]) -> TrainState:
    """Return the child."""
    return children[0]


class _Metrics:
  """Metrics of all runs; the devices may not have finished them."""

  def __init__(self, arrays: dict[str, jax.Array]):
    self.arrays = arrays

  @functools.cached_property
  def on_host(self) -> dict[str, np.ndarray]:
    return jax.device_get(self.arrays)


class MetricsOfRun(Mapping[str, Any]):
  """Metrics by name; reading one of them fetches those of all runs."""

  def __init__(self, of_all: _Metrics, index: int):
    """Stand for the metrics of a run."""
    self._of_all, self._index = of_all, index

  def __getitem__(self, name: str) -> Any:
    return self._of_all.on_host[name][self._index]

  def __iter__(self) -> Iterator[str]:
    return iter(self._of_all.arrays)

  def __len__(self) -> int:
    return len(self._of_all.arrays)

  def block_until_ready(self) -> "MetricsOfRun":
    """Wait until the devices have finished the step, as JAX's arrays do."""
    jax.block_until_ready(self._of_all.arrays)
    return self
