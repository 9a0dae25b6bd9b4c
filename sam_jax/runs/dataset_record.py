"""The record of a data set in a workdir: classes, and a mark of its files.

With it, a network can be used where its data are not. A run on files of a user
resumes only on the same files.
"""

import json
from typing import Any

from etils import epath

from sam_jax.config.schema import ConfigError
from sam_jax.datasets.class_names import class_names
from sam_jax.runs import distributed, files
from sam_jax.runs import workdir as workdir_lib

_NAME = "data.json"


def keep(workdir: epath.Path, dataset: Any, data_dir: str | None) -> None:
  """Write what identifies a data set, or compare it with what was written.

  Every process must call it, after it claimed the workdir.

  Args:
    workdir: The directory of the run.
    dataset: Its data set, as `input_pipeline.create_dataset` returns it.
    data_dir: Directory of the data sets; None for TFDS's default.

  Raises:
    ConfigError: The images are others than those that the run began with, or
      than those of process 0.
  """
  mine = _describe(dataset, data_dir)

  def record() -> str:
    # Without a checkpoint, a workdir may still become another run's.
    earlier = read(workdir) if workdir_lib.has_begun(workdir) else {}
    if earlier.get("files", mine["files"]) != mine["files"]:
      raise _changed(workdir, earlier, mine)
    if not earlier:
      files.write_json(workdir / _NAME, mine)
    return json.dumps(mine["files"])

  of_first = distributed.from_process_0(
    record, "process 0 to note its data set"
  )
  if json.loads(of_first) != mine["files"]:
    raise ConfigError(
      f"config.dataset.data_dir = {data_dir!r} has other images here than in"
      " process 0. Copy the same files to all hosts."
    )


def read(workdir: epath.Path) -> dict[str, Any]:
  """Return what `keep` wrote, or {} if an older version began the run.

  Raises:
    ConfigError: The file is damaged.
  """
  file = workdir / _NAME
  if not file.exists():
    return {}
  try:
    record = json.loads(file.read_text())
  except ValueError:
    record = None
  if not isinstance(record, dict) or not isinstance(
    record.get("class_names"), list
  ):
    raise ConfigError(
      f"{file} is damaged. Restore it from a copy, or remove it."
    )
  return record


def _describe(dataset: Any, data_dir: str | None) -> dict[str, Any]:
  spec, folder = dataset.spec, dataset.folder
  identity = None
  if folder:
    identity = {
      "fingerprint": folder.fingerprint,
      "train": len(folder.train),
      "test": len(folder.test),
    }
  names = list(class_names(spec, data_dir))
  return {"name": spec.name, "class_names": names, "files": identity}


def _changed(
  workdir: epath.Path, earlier: dict[str, Any], now: dict[str, Any]
) -> ConfigError:
  before, after = earlier["files"] or {}, now["files"] or {}
  counts = " and ".join(
    f"{before.get(split)} -> {after.get(split)} to {verb}"
    for split, verb in (("train", "train on"), ("test", "evaluate on"))
  )
  return ConfigError(
    f"--workdir={workdir} holds a run on other images: their names, sizes or"
    f" classes have changed ({counts}). Restore them, or use another workdir."
  )
