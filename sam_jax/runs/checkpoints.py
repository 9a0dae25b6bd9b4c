"""Checkpoints of a run: asynchronous, checksummed, safe against damage."""

import logging
import re
import zlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.path import step as ocp_step

from sam_jax import paths
from sam_jax.config.schema import ConfigError
from sam_jax.runs import distributed
from sam_jax.runs.checkpoint_errors import (
  DamagedCheckpointError,
  finding_damage,
  leave_out_tracebacks,
  reading,
  writing,
)

logger = logging.getLogger(__name__)

_ABOUT_DAMAGED = "Checkpoints whose content is not what the run saved.\n"


class HasStep(Protocol):
  """A tree of arrays that counts its steps, such as a `TrainState`."""

  @property
  def step(self) -> Any:
    """Integer (); steps done so far."""


State = TypeVar("State", bound=HasStep)

# Versions of the code add metrics, which no later step depends on.
_METRICS = ".metrics."


class SavedCheckpoints:
  """The checkpoints in a directory, to be read.

  Nothing in the directory changes: the run may still be training.
  """

  def __init__(self, directory: epath.PathLike):
    """Open a directory of checkpoints.

    Args:
      directory: Local or gs:// path; there are no checkpoints if it is missing.
    """
    self._directory = paths.resolve(directory)
    self._reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    leave_out_tracebacks()

  def steps(self) -> list[int]:
    """Return the steps that have a checkpoint, in ascending order.

    A checkpoint that is being written, or whose process was killed, has none.
    """
    with reading(self._directory):
      found = ocp_step.standard_name_format().find_all(self._directory)
      return sorted(each.step for each in found)

  def restore(self, template: State, step: int) -> State:
    """Read the checkpoint of a step.

    Args:
      template: A state with the same structure, shapes and dtypes.
      step: One of `steps()`.

    Returns:
      The state, as NumPy arrays. A metric that an older version of this code
      did not save is that of the template.

    Raises:
      DamagedCheckpointError: The checkpoint is damaged.
      ConfigError: The checkpoint is one of another network or method.
      WorkdirLostError: It can't be read now; this says nothing about damage.
    """
    template, path = jax.device_get(template), self._directory / str(step)
    with reading(path), finding_damage(path):
      saved = self._read_checksum(path)
      found, wanted = saved["arrays"], _describe(template)
      new = {
        name for name in wanted.keys() - found if name.startswith(_METRICS)
      }
      _check_arrays(found | {name: wanted[name] for name in new}, wanted, path)
      if new:
        return _filled(template, self.restore_tree(step))
      state = self._read(path, state=ocp.args.StandardRestore(template)).state
    state = jax.tree.map(np.asarray, state)
    _check_sum(state, saved, path)
    return state

  def restore_tree(self, step: int) -> dict[str, Any]:
    """Read the checkpoint of a step of any network and method.

    Args:
      step: One of `steps()`.

    Returns:
      The fields of the state by name, as NumPy arrays in dictionaries and
      lists.

    Raises:
      DamagedCheckpointError: The checkpoint is damaged.
      WorkdirLostError: It can't be read now; this says nothing about damage.
    """
    path = self._directory / str(step)
    with reading(path), finding_damage(path):
      saved = self._read_checksum(path)
      tree = self._read(path, state=ocp.args.StandardRestore()).state
      arrays = _by_keys(tree)
      # The tree is sorted by name, the state that was saved is not.
      in_order = [arrays[_keys(name)] for name in saved["arrays"]]
    _check_sum(in_order, saved, path)
    return tree

  def _read_checksum(self, path: epath.Path) -> dict[str, Any]:
    saved = self._read(path, checksum=ocp.args.JsonRestore()).checksum
    if not isinstance(saved, dict) or {"arrays", "crc32"} - saved.keys():
      raise DamagedCheckpointError(f"checkpoint {path} has no checksum.")
    return saved

  def _read(self, path: epath.Path, **items: ocp.args.CheckpointArgs) -> Any:
    return self._reader.restore(path, args=ocp.args.Composite(**items))

  def restore_latest(self, template: State) -> State | None:
    """Read the newest checkpoint that is intact.

    Args:
      template: A state with the same structure, shapes and dtypes.

    Returns:
      The state, as NumPy arrays, or None if no checkpoint was ever saved.

    Raises:
      ConfigError: There are checkpoints, and all of them are damaged, or the
        newest is one of another network or method.
      WorkdirLostError: The newest can't be read now.
    """
    tried: set[int] = set()
    # List again every time: a run that is training deletes the oldest.
    while steps := [step for step in self.steps() if step not in tried]:
      tried.add(steps[-1])
      try:
        return self.restore(template, steps[-1])
      except DamagedCheckpointError as error:
        self._put_aside(steps[-1], error)
    self._check_all_lost(tried)
    return None

  def _put_aside(self, step: int, error: DamagedCheckpointError) -> None:
    """Report damage, unless the run that trains deleted the checkpoint."""
    if (self._directory / str(step)).exists():
      logger.warning("%s", error)

  def _check_all_lost(self, tried: set[int]) -> None:
    """Refuse to train from scratch where there were checkpoints."""
    aside = self._damaged_directory
    if tried or (aside.exists() and any(aside.iterdir())):
      raise ConfigError(
        f"All checkpoints of {self._directory.parent} are damaged: see"
        f" {self._directory} and {aside}. Choose another workdir, or remove"
        " both directories to train from scratch in this one."
      )

  @property
  def _damaged_directory(self) -> epath.Path:
    return self._directory.parent / "damaged_checkpoints"


class Checkpoints(SavedCheckpoints):
  """The checkpoints of the run that trains: the last two and those asked for.

  Process 0 alone copies the state and writes it. Orbax does so in the
  background and gives a checkpoint its final name once it is complete. A
  checksum is stored with it, so that damage is noticed when the checkpoint is
  read. No pickle is involved.
  """

  def __init__(self, directory: epath.PathLike, keep_steps: Sequence[int] = ()):
    """Open or create a directory of checkpoints, and remove unfinished ones.

    Args:
      directory: Local or gs:// path.
      keep_steps: Steps whose checkpoints are never deleted.

    Raises:
      WorkdirLostError: The directory can't be written.
    """
    super().__init__(directory)
    self._manager: ocp.CheckpointManager | None = None
    if jax.process_index() == 0:
      with writing(self._directory):
        self._directory.mkdir(parents=True, exist_ok=True)
        self._manager = _create_manager(self._directory, keep_steps)

  def save(self, state: HasStep) -> None:
    """Start to save a state; wait only for the previous save.

    Raises:
      WorkdirLostError: The previous save failed, or this one can't start.
    """
    if not self._manager:
      return
    # Copy to the host first: the next step donates the device arrays.
    state = jax.device_get(state)
    with writing(self._directory):
      self._manager.save(
        int(state.step),
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          checksum=ocp.args.JsonSave(
            {"crc32": _checksum(state), "arrays": _describe(state)}
          ),
        ),
      )

  def check(self) -> None:
    """Report a save that failed in the background; call this regularly.

    Raises:
      WorkdirLostError: The last save failed.
    """
    if self._manager:
      with writing(self._directory):
        self._manager.check_for_errors()

  def wait(self) -> None:
    """Wait until this process has written its checkpoints.

    Raises:
      WorkdirLostError: The last save failed.
    """
    if self._manager:
      with writing(self._directory):
        self._manager.wait_until_finished()

  def close(self) -> None:
    """Wait until all checkpoints are written; all processes must call it.

    Raises:
      WorkdirLostError: The last save failed.
    """
    if self._manager:
      with writing(self._directory):
        self._manager.close()
    # A process that ends would take process 0 along.
    distributed.wait_for_others("process 0 to write its checkpoint")

  def _put_aside(self, step: int, error: DamagedCheckpointError) -> None:
    """Move a damaged checkpoint to `damaged_checkpoints`."""
    logger.warning("%s", error)
    aside = self._damaged_directory / str(step)
    if jax.process_index() == 0:
      with writing(self._directory):
        aside.parent.mkdir(exist_ok=True)
        # In a bucket a directory exists once there is a file below it.
        (aside.parent / "README.txt").write_text(_ABOUT_DAMAGED)
        if aside.exists():
          aside.rmtree()
        (self._directory / str(step)).rename(aside)
      logger.warning("Moved it to %s; trying the checkpoint before it.", aside)
      if self._manager:
        self._manager.reload()  # or it would not save this step again
    # All processes must look for the checkpoint before it after the move.
    distributed.wait_for_others("process 0 to move a damaged checkpoint")


class _Manager(ocp.CheckpointManager):
  """Leaves the question whether to stop to `runs.preemption`.

  JAX counts the questions of a process: those of Orbax would not count in the
  same way.
  """

  def reached_preemption(self, step: int) -> bool:
    """Return False: the loop knows when to stop."""
    del step
    return False


def _create_manager(
  directory: epath.Path, keep_steps: Sequence[int]
) -> ocp.CheckpointManager:
  policies = checkpoint_managers
  return _Manager(
    directory,
    options=ocp.CheckpointManagerOptions(
      create=False,
      preservation_policy=policies.AnyPreservationPolicy(
        [policies.LatestN(2), policies.CustomSteps(list(keep_steps))]
      ),
      cleanup_tmp_directories=True,
      # In the background, a failure would leave threads that wait for the
      # directories for minutes, and the process could not end.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        active_processes={0}
      ),
    ),
  )


def _filled(template: State, tree: dict[str, Any]) -> State:
  """Return a template with the arrays of a tree that has fewer of them."""
  arrays = _by_keys(tree)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: arrays.get(_keys(jax.tree_util.keystr(path)), x), template
  )


def _check_arrays(
  found: dict[str, str], wanted: dict[str, str], path: epath.Path
) -> None:
  """Compare the arrays of a checkpoint with those of a template.

  Orbax would cut arrays of another shape to that of the template.
  """
  for name in sorted(found.keys() | wanted.keys()):
    theirs, ours = found.get(name, "nothing"), wanted.get(name, "nothing")
    if theirs != ours:
      raise ConfigError(
        f"checkpoint {path} has {theirs} for {name}; this network and method"
        f" have {ours}. Run the code that wrote it, or choose another workdir."
      )


def _check_sum(state: Any, saved: dict[str, Any], path: epath.Path) -> None:
  if _checksum(state) != saved["crc32"]:
    raise DamagedCheckpointError(
      f"checkpoint {path} is damaged: its checksum does not match."
    )


def _by_keys(tree: Any) -> dict[tuple[str, ...], Any]:
  """Return the arrays of a tree by the keys of their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_keys(jax.tree_util.keystr(path)): x for path, x in leaves}


def _keys(path: str) -> tuple[str, ...]:
  """Return the keys of a path, the same for attributes and dictionaries."""
  found = re.findall(r"\.(\w+)|\['([^']*)'\]|\[(\d+)\]", path)
  return tuple("".join(groups) for groups in found)


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
