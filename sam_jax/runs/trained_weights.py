"""The weights of a run of ours, as the start of another run.

Nothing in the directory of that run is changed: it may be training.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from sam_jax import buckets, paths
from sam_jax.config.schema import ConfigError
from sam_jax.models import pretrained
from sam_jax.runs import distributed
from sam_jax.runs import workdir as workdir_lib
from sam_jax.runs.checkpoint_errors import DamagedCheckpointError, cause_of
from sam_jax.runs.checkpoints import SavedCheckpoints
from sam_jax.runs.workdir import WorkdirLostError


def pin(config: ConfigDict, workdir: epath.PathLike) -> ConfigDict:
  """Name one checkpoint in `config.pretrained`, the same in all processes.

  A run that trains further has other weights tomorrow. So the config of the run
  that starts from it names the newest checkpoint of today, and a run that
  resumes keeps the one that it started from.

  Args:
    config: A config, not checked yet, but the same in all processes. Its
      `pretrained` may be the workdir of a run, or the checkpoints/ in there.
    workdir: Workdir of the run that has this config.

  Returns:
    The config with the path of the checkpoint; paths of files stay.

  Raises:
    ConfigError: It can't be read, or is a directory without a checkpoint of a
      run.
    WorkdirLostError: The disk or the network fails.
  """
  path = config.get("pretrained")
  if not path or not isinstance(path, str):
    return config
  config = config.copy_and_resolve_references()

  def find() -> str:
    with _reading(path):
      return _find_checkpoint(path, paths.resolve(workdir))

  config.pretrained = distributed.from_process_0(
    find, "process 0 to find config.pretrained"
  )
  return config


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
  """Report in one line why the weights to start from can't be read.

  Raises:
    ConfigError: They are missing or damaged, or this user may not read them.
    WorkdirLostError: The disk or the network fails.
  """
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:  # gs:// clients raise errors of their own
    if isinstance(error, ValueError):  # of the content of a file
      raise ConfigError(f"config.pretrained: {error}") from error
    source = f"config.pretrained = {path!r}"
    if buckets.is_refusal(error):
      cause = cause_of(error.__cause__ or error, paths.resolve(path))
      raise ConfigError(f"{source} can't be read: {cause}.") from error
    if isinstance(error, WorkdirLostError):
      raise
    cause = cause_of(error, paths.resolve(path))
    raise WorkdirLostError(
      f"{source} can't be read: {cause}. Run the same command again once the"
      " disk or the network works."
    ) from error


def _find_checkpoint(path: str, workdir: epath.Path) -> str:
  source = paths.resolve(path)
  if workdir_lib.has_begun(workdir):
    earlier = (workdir_lib.read_config(workdir) or {}).get("pretrained")
    if earlier and source in _run_directories(earlier):
      return earlier
  if not source.is_dir() or _is_checkpoint(source):
    return path
  for below in ("checkpoints", "."):
    steps = SavedCheckpoints(source / below).steps()
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
    ConfigError: It can't be read, is damaged, or is not a checkpoint.
    WorkdirLostError: The disk or the network fails.
  """
  with _reading(path):
    return _read(path)


def _read(path: str) -> pretrained.Checkpoint:
  source = paths.resolve(path)
  if not _is_checkpoint(source):
    return pretrained.read_checkpoint(source)
  config = workdir_lib.read_config(source.parent.parent) or {}
  try:
    state = SavedCheckpoints(source.parent).restore_tree(int(source.name))
  except DamagedCheckpointError as error:
    raise ConfigError(
      f"config.pretrained: {error} Name another one of that run."
    ) from error
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


def _network(config: Mapping[str, Any]) -> str:
  """Return what a run trained, as its config.json says."""
  model, dataset = config.get("model", {}), config.get("dataset", {})
  return f"{model.get('name')} on {dataset.get('name')}"
