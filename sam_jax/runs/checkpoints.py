"""Checkpoints of a run: asynchronous, checksummed, safe against damage."""

import logging
import zlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from sam_jax import paths
from sam_jax.config.schema import ConfigError

logger = logging.getLogger(__name__)


class HasStep(Protocol):
  """A tree of arrays that counts its steps, such as a `TrainState`."""

  @property
  def step(self) -> Any:
    """Integer (); steps done so far."""


State = TypeVar("State", bound=HasStep)


class Checkpoints:
  """The checkpoints in a directory: the last two and those asked for.

  Orbax writes a checkpoint in the background and gives it its final name once
  it is complete. A checksum is stored with it, so that damage is noticed when
  the checkpoint is read. No pickle is involved.
  """

  def __init__(self, directory: epath.PathLike, keep_steps: Sequence[int] = ()):
    """Open or create a directory of checkpoints.

    Args:
      directory: Local or gs:// path.
      keep_steps: Steps whose checkpoints are never deleted.
    """
    self._directory = paths.resolve(directory)
    policies = checkpoint_managers
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
          [policies.LatestN(2), policies.CustomSteps(list(keep_steps))]
        ),
        cleanup_tmp_directories=True,
      ),
    )

  def steps(self) -> list[int]:
    """Return the steps that have a checkpoint, in ascending order."""
    return sorted(self._manager.all_steps())

  def save(self, state: HasStep) -> None:
    """Start to save a state; wait only for the previous save."""
    # Copy to the host first: the next step donates the device arrays.
    state = jax.device_get(state)
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        checksum=ocp.args.JsonSave(
          {"crc32": _checksum(state), "arrays": _describe(state)}
        ),
      ),
    )

  def restore(self, template: State, step: int) -> State:
    """Read the checkpoint of a step.

    Args:
      template: A state with the same structure, shapes and dtypes.
      step: One of `steps()`.

    Returns:
      The state, as NumPy arrays.

    Raises:
      ConfigError: The checkpoint is one of another network or method.
      ValueError: The checkpoint is damaged.
    """
    template = jax.device_get(template)
    self._check_arrays(_describe(template), step)
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(template),
          checksum=ocp.args.JsonRestore(),
        ),
      )
    except Exception as error:  # each storage layer reports damage differently
      raise ValueError(
        f"checkpoint {self._directory / str(step)} can't be read:"
        f" {str(error).splitlines()[0] if str(error) else repr(error)}"
      ) from error
    state = jax.tree.map(np.asarray, restored.state)
    if _checksum(state) != restored.checksum["crc32"]:
      raise ValueError(
        f"checkpoint {self._directory / str(step)} is damaged: its checksum"
        " does not match."
      )
    return state

  def _check_arrays(self, wanted: dict[str, str], step: int) -> None:
    """Compare the arrays of a checkpoint with those of a template.

    Orbax would cut arrays of another shape to that of the template.
    """
    try:
      found = self._manager.restore(
        step, args=ocp.args.Composite(checksum=ocp.args.JsonRestore())
      ).checksum["arrays"]
    except Exception:  # damaged or older than this check: `restore` will tell
      return
    for name in sorted(found.keys() | wanted.keys()):
      theirs, ours = found.get(name, "nothing"), wanted.get(name, "nothing")
      if theirs != ours:
        raise ConfigError(
          f"checkpoint {self._directory / str(step)} has {theirs} for {name};"
          f" this network and method have {ours}. Run the code that wrote it,"
          " or choose another workdir."
        )

  def restore_latest(self, template: State) -> State | None:
    """Read the newest checkpoint that is intact.

    A damaged checkpoint is moved to `damaged_checkpoints` with a warning.

    Args:
      template: A state with the same structure, shapes and dtypes.

    Returns:
      The state, as NumPy arrays, or None if no checkpoint was ever saved.

    Raises:
      ConfigError: There are checkpoints, and all of them are damaged, or the
        newest is one of another network or method.
    """
    steps = self.steps()
    for step in reversed(steps):
      try:
        return self.restore(template, step)
      except ConfigError:
        raise  # an intact checkpoint stays where it is
      except ValueError as error:
        logger.warning("%s", error)
        self._move_aside(step)
    if steps:
      raise ConfigError(
        f"All checkpoints in {self._directory} were damaged and are now in"
        f" {self._damaged_directory}. Start again in a new workdir, or in this"
        " one to train from scratch."
      )
    return None

  def close(self) -> None:
    """Wait until all checkpoints are written."""
    self._manager.close()

  @property
  def _damaged_directory(self) -> epath.Path:
    return self._directory.parent / "damaged_checkpoints"

  def _move_aside(self, step: int) -> None:
    if jax.process_index() == 0:
      self._damaged_directory.mkdir(exist_ok=True)
      target = self._damaged_directory / str(step)
      if target.exists():
        target.rmtree()
      (self._directory / str(step)).rename(target)
      logger.warning(
        "Moved it to %s; falling back to the previous checkpoint.", target
      )
    self._manager.reload()


def _checksum(tree: Any) -> int:
  """Return the CRC-32 of the bytes of all NumPy arrays of a tree, in order."""
  crc = 0
  for leaf in jax.tree.leaves(tree):
    data = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
    crc = zlib.crc32(data.data, crc)
  return crc


def _describe(tree: Any) -> dict[str, str]:
  """Return dtype and shape of every array by its path."""
  return {
    jax.tree_util.keystr(path): f"{np.asarray(x).dtype}{list(np.shape(x))}"
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
