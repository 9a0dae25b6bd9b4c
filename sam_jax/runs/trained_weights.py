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
from sam_jax.datasets import catalog
from sam_jax.pretrained import formats
from sam_jax.pretrained.checkpoint import (
  IMAGE_SHAPE,
  READABLE,
  Checkpoint,
  checkpoint_of,
)
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
    with _reading(path, "config.pretrained"):
      earlier = _earlier_start(path, paths.resolve(workdir))
      return earlier or _find_checkpoint(path, "config.pretrained")

  config.pretrained = distributed.from_process_0(
    find, "process 0 to find config.pretrained"
  )
  return config


def check(config: ConfigDict, workdir: epath.PathLike) -> None:
  """Check that the weights to start from exist, and are no unreadable format.

  This is not part of `validate_config` because a run that has started no longer
  needs them.

  Args:
    config: A valid config.
    workdir: Workdir of the run that has this config.

  Raises:
    ConfigError: They do not exist, or no reader opens them.
    WorkdirLostError: The disk or the network fails.
  """
  path = config.pretrained
  if not path:
    return
  buckets.check(workdir, "--workdir", for_checkpoints=True)
  if workdir_lib.has_begun(paths.resolve(workdir)):
    return
  buckets.check(path, "config.pretrained")
  if not formats.exists(path):
    raise ConfigError(
      f"config.pretrained = {path!r}: there is no such file or directory."
      f" {READABLE}"
    )
  if not _is_checkpoint(paths.resolve(path)):
    with _reading(path, "config.pretrained"):
      formats.recognize(path)


@contextlib.contextmanager
def _reading(path: str, name: str) -> Iterator[None]:
  """Report in one line why weights can't be read.

  Args:
    path: Path of the weights.
    name: The field or the flag that holds it.

  Raises:
    ConfigError: They are missing or damaged, or this user may not read them.
    WorkdirLostError: The disk or the network fails.
  """
  try:
    source = paths.resolve(path)
  except ConfigError as error:  # it does not know the name
    raise ConfigError(f"{name}: {error}") from error
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:  # gs:// clients raise errors of their own
    if isinstance(error, ValueError):  # of the content of a file
      raise ConfigError(f"{name}: {error}") from error
    given = f"{name} = {path!r}"
    if buckets.is_refusal(error):
      cause = cause_of(error.__cause__ or error, source)
      raise ConfigError(f"{given} can't be read: {cause}.") from error
    if isinstance(error, WorkdirLostError):
      raise
    cause = cause_of(error, source)
    raise WorkdirLostError(
      f"{given} can't be read: {cause}. Run the same command again once the"
      " disk or the network works."
    ) from error


def _earlier_start(path: str, workdir: epath.Path) -> str | None:
  """Return the checkpoint that a run has started from, if `path` is its run."""
  if workdir_lib.has_begun(workdir):
    earlier = (workdir_lib.read_config(workdir) or {}).get("pretrained")
    if earlier and paths.resolve(path) in _run_directories(earlier):
      return earlier
  return None


def _find_checkpoint(path: str, name: str) -> str:
  """Return the newest checkpoint if a path is a run; other paths stay.

  Args:
    path: See `pin`.
    name: The field or the flag that holds it.

  Raises:
    ConfigError: It is a directory without weights.
  """
  source = paths.resolve(path)
  if not source.is_dir() or _is_checkpoint(source):
    return path
  for below in ("checkpoints", "."):
    steps = SavedCheckpoints(source / below).steps()
    if steps:
      return os.fspath(epath.Path(path) / below / str(steps[-1]))
  if formats.holds_weights(source):
    return path
  if (source / "config.json").exists():
    raise ConfigError(
      f"{name} = {path!r} is a run without checkpoints. Train it"
      " further, or name another run."
    )
  raise ConfigError(
    f"{name} = {path!r} is a directory without checkpoints of a run and without"
    f" weights of another library. {READABLE}"
  )


def read_newest(path: str, name: str, *, use_ema: bool = True) -> Checkpoint:
  """Read the newest checkpoint of a run, or a file.

  Args:
    path: The workdir of a run, or what `read` takes.
    name: The field or the flag that holds it.
    use_ema: See `read`.

  Returns:
    The variables.

  Raises:
    ConfigError: See `read`.
    WorkdirLostError: See `read`.
  """
  with _reading(path, name):
    found = _find_checkpoint(path, name)
  return read(found, name, use_ema=use_ema)


def read(
  path: str, name: str = "config.pretrained", *, use_ema: bool = True
) -> Checkpoint:
  """Read the variables to start from: of a run, or of a file.

  Args:
    path: A checkpoint of a run, or a path for `formats.read_checkpoint`.
    name: The field or the flag that holds it.
    use_ema: Take the running averages if there are any, as in evaluation.

  Returns:
    The variables.

  Raises:
    ConfigError: It can't be read, is damaged, or is not a checkpoint.
    WorkdirLostError: The disk or the network fails.
  """
  with _reading(path, name):
    return _read(path, name, use_ema)


def _read(path: str, name: str, use_ema: bool) -> Checkpoint:
  source = paths.resolve(path)
  if not _is_checkpoint(source):
    return formats.read_checkpoint(path, use_ema=use_ema)
  config = workdir_lib.read_config(source.parent.parent) or {}
  try:
    state = SavedCheckpoints(source.parent).restore_tree(int(source.name))
  except DamagedCheckpointError as error:
    raise ConfigError(
      f"{name}: {error} Name another one of that run."
    ) from error
  averages = state.get("ema") if use_ema else None
  kind = f"step {source.name} of a run of {_network(config)}"
  if averages:
    kind += ", running averages"
  found = checkpoint_of(averages or state, kind, path)
  return found._replace(image_shape=_image_shape(config.get("dataset", {})))


def _run_directories(checkpoint: str) -> tuple[epath.Path, epath.Path]:
  """Return checkpoints/ and the workdir of a run from one checkpoint."""
  directory = paths.resolve(checkpoint).parent
  return directory, directory.parent


def _is_checkpoint(path: epath.Path) -> bool:
  """Return True if a path is a checkpoint in the workdir of a run."""
  return path.name.isdigit() and (path / "state").is_dir()


def _image_shape(dataset: Mapping[str, Any]) -> tuple[int, ...]:
  """Return height, width and channels of images that a run trained on."""
  name, side = dataset.get("name", ""), dataset.get("image_size")
  shape = IMAGE_SHAPE
  if name in catalog.known_datasets() and name != catalog.IMAGE_FOLDER:
    shape = catalog.dataset_spec(name).image_shape
  return (side, side, shape[2]) if side else shape


def _network(config: Mapping[str, Any]) -> str:
  """Return what a run trained, as its config.json says."""
  model, dataset = config.get("model", {}), config.get("dataset", {})
  return f"{model.get('name')} on {dataset.get('name')}"
