"""Checkpoints of a run: asynchronous, checked, and never lost."""

import logging
import zlib
from collections.abc import Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from sam_jax.config.schema import ConfigError
from sam_jax.training.state import TrainState

logger = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints in a directory: the last two, and some kept for ever.

  Saving returns at once and writes in the background (Orbax); a checkpoint
  appears under its final name only when it is whole. A checksum goes with it,
  so that a damaged one is noticed when it is read. No pickle is involved.
  """

  def __init__(self, directory: epath.PathLike, keep_steps: Sequence[int] = ()):
    """Opens, or creates, a directory of checkpoints.

    Args:
      directory: Local or gs:// path.
      keep_steps: Steps whose checkpoints are never deleted.
    """
    self._directory = epath.Path(directory).absolute()
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
    """Steps that have a checkpoint, in order."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState) -> None:
    """Starts to save a state; waits only for the save before it."""
    state = jax.device_get(state)  # numpy: donation can't reach it
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        checksum=ocp.args.JsonSave({"crc32": _checksum(state)}),
      ),
    )

  def restore(self, template: TrainState, step: int) -> TrainState:
    """Reads the checkpoint of a step.

    Args:
      template: A state with the same structure, shapes and dtypes.
      step: One of `steps()`.

    Returns:
      The state, of numpy arrays.

    Raises:
      ValueError: The checkpoint is damaged, or is of another structure.
    """
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(jax.device_get(template)),
          checksum=ocp.args.JsonRestore(),
        ),
      )
    except Exception as error:  # whatever the storage layer makes of damage
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

  def restore_latest(self, template: TrainState) -> TrainState | None:
    """Reads the newest checkpoint that is whole.

    A damaged one is moved aside, to `damaged_checkpoints`, with a warning.

    Args:
      template: A state with the same structure, shapes and dtypes.

    Returns:
      The state, of numpy arrays, or None where no checkpoint was ever saved.

    Raises:
      ConfigError: There are checkpoints, and all are damaged.
    """
    steps = self.steps()
    for step in reversed(steps):
      try:
        return self.restore(template, step)
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
    """Waits until all is written."""
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
      logger.warning("Moved it to %s and fall back to the one before.", target)
    self._manager.reload()


def _checksum(tree) -> int:
  """CRC-32 of all bytes of a tree of numpy arrays, in order."""
  crc = 0
  for leaf in jax.tree.leaves(tree):
    data = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
    crc = zlib.crc32(data, crc)
  return crc
