"""The weights of a run of ours, as the start of another run.

Nothing in the directory of that run is changed: it may be training.
"""

import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.path import step as ocp_step

from sam_jax import paths
from sam_jax.config.schema import ConfigError
from sam_jax.models import pretrained
from sam_jax.runs import workdir as workdir_lib

# A key of a path as JAX prints it: .name, ['name'] or [0].
_KEY = re.compile(r"\.(\w+)|\['([^']*)'\]|\[(\d+)\]")


def pin(config: ConfigDict, workdir: epath.PathLike) -> ConfigDict:
  """Name one checkpoint in `config.pretrained`.

  A run that trains further has other weights tomorrow. So the config of the run
  that starts from it names the newest checkpoint of today, and a run that
  resumes keeps the one that it started from.

  Args:
    config: A config, not checked yet. Its `pretrained` may be the workdir of a
      run, or the checkpoints/ in there.
    workdir: Workdir of the run that has this config.

  Returns:
    The config with the path of the checkpoint; paths of files stay.

  Raises:
    ConfigError: It is a directory without a checkpoint of a run.
  """
  path = config.get("pretrained")
  if not path or not isinstance(path, str):
    return config
  config = config.copy_and_resolve_references()
  try:
    config.pretrained = _find_checkpoint(path, paths.resolve(workdir))
  except ConfigError:
    raise
  except Exception as error:  # gs:// clients raise errors of their own
    raise ConfigError(
      f"config.pretrained = {path!r} can't be read: {error}"
    ) from error
  return config


def _find_checkpoint(path: str, workdir: epath.Path) -> str:
  source = paths.resolve(path)
  if workdir_lib.has_begun(workdir):
    earlier = (workdir_lib.read_config(workdir) or {}).get("pretrained")
    if earlier and source in _run_directories(earlier):
      return earlier
  if not source.is_dir() or _is_checkpoint(source):
    return path
  for below in ("checkpoints", "."):
    steps = _steps(source / below)
    if steps:
      return os.fspath(epath.Path(path) / below / str(steps[-1]))
  if (source / "config.json").exists():
    raise ConfigError(
      f"config.pretrained = {path!r} is a run without checkpoints. Train it"
      " further, or name another run."
    )
  raise ConfigError(
    f"config.pretrained = {path!r} is a directory without checkpoints of a run."
    " Give the workdir of a run, or the file of an official or converted"
    " checkpoint."
  )


def read(path: str) -> pretrained.Checkpoint:
  """Read the variables to start from: of a run, or of a file.

  Args:
    path: A checkpoint of a run, or a file for `pretrained.read_checkpoint`.

  Returns:
    The variables. Those of a run are its running averages if it has them, as in
    its evaluation.

  Raises:
    OSError: The file can't be read.
    ValueError: The checkpoint can't be read, or is damaged.
  """
  source = paths.resolve(path)
  if not _is_checkpoint(source):
    return pretrained.read_checkpoint(source)
  config = workdir_lib.read_config(source.parent.parent) or {}
  state = _read_state(source)
  variables = state.get("ema") or state
  kind = f"step {source.name} of a run of {_network(config)}"
  if state.get("ema"):
    kind += ", running averages"
  return pretrained.checkpoint_of(variables, kind, path)


def _run_directories(checkpoint: str) -> tuple[epath.Path, epath.Path]:
  """Return checkpoints/ and the workdir of a run from one checkpoint."""
  directory = paths.resolve(checkpoint).parent
  return directory, directory.parent


def _is_checkpoint(path: epath.Path) -> bool:
  """Return True if a path is a checkpoint in the workdir of a run."""
  return path.name.isdigit() and (path / "state").is_dir()


def _steps(directory: epath.Path) -> list[int]:
  """Return the steps with a whole checkpoint, in ascending order."""
  if not directory.is_dir():
    return []
  found = ocp_step.standard_name_format().find_all(directory)
  return sorted(metadata.step for metadata in found)


def _read_state(path: epath.Path) -> dict[str, Any]:
  """Read the state of a checkpoint as nested dictionaries of arrays.

  Raises:
    ValueError: It can't be read, or it is damaged.
  """
  remedy = "Name another checkpoint of that run."
  try:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
      found = reader.restore(
        path,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(), checksum=ocp.args.JsonRestore()
        ),
      )
  except Exception as error:  # each storage layer raises errors of its own
    line = (str(error) or repr(error)).splitlines()[0]
    reason = line.partition(" [tensorstore_spec=")[0]
    raise ValueError(f"{path} can't be read: {reason}. {remedy}") from error
  if (
    _checksum(found.state, found.checksum["arrays"])
    != (found.checksum["crc32"])
  ):
    raise ValueError(
      f"{path} is damaged: its checksum does not match. {remedy}"
    )
  return found.state


def _checksum(state: Any, order: Mapping[str, str]) -> int | None:
  """Return the CRC-32 of the arrays of a state; None if one is missing.

  Args:
    state: The state as nested dictionaries, whose order is alphabetical.
    order: The arrays of the state, by the paths that they were saved with.
  """
  leaves = jax.tree_util.tree_leaves_with_path(state)
  arrays = {_keys(jax.tree_util.keystr(path)): x for path, x in leaves}
  crc = 0
  for name in order:
    if _keys(name) not in arrays:
      return None
    data = np.ascontiguousarray(arrays[_keys(name)]).reshape(-1)
    crc = zlib.crc32(data.view(np.uint8).data, crc)
  return crc


def _keys(path: str) -> tuple[str, ...]:
  """Return the keys of a path, the same for attributes and dictionaries."""
  return tuple("".join(groups) for groups in _KEY.findall(path))


def _network(config: Mapping[str, Any]) -> str:
  """Return what a run trained, as its config.json says."""
  model, dataset = config.get("model", {}), config.get("dataset", {})
  return f"{model.get('name')} on {dataset.get('name')}"
