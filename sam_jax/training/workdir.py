"""The directory of a run: whose it is, and what came out."""

import json
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sam_jax.training import files
from sam_jax.training.config import ConfigError

# Fields that may differ when a run goes on: they don't change its result.
FREE_FIELDS = (
  "dataset.data_dir",
  "compilation_cache_dir",
  "profile",
  "analysis.every_epochs",
  "analysis.num_examples",
  "analysis.rho",
  "analysis.m",
  "analysis.lanczos_steps",
)


def claim(workdir: epath.PathLike, config: ConfigDict) -> epath.Path:
  """Makes a directory the home of a run, or finds that it already is.

  Args:
    workdir: Local or gs:// path.
    config: The config of the run.

  Returns:
    The directory. It holds `config.json`.

  Raises:
    ConfigError: It can't be written, or belongs to a run with another config;
      the message names the fields that differ.
  """
  path = epath.Path(workdir).expanduser()
  try:
    path.mkdir(parents=True, exist_ok=True)
    existing = _read_config(path)
    if existing is not None:
      _check_same(existing, to_dict(config), path)
    if jax.process_index() == 0:
      files.write_json(path / "config.json", to_dict(config))
  except OSError as error:
    raise ConfigError(
      f"--workdir={workdir} can't be written: {error.strerror or error}."
      " Choose another directory."
    ) from error
  return path


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """Returns a config as what JSON can hold."""
  return json.loads(config.to_json_best_effort())


def write_result(workdir: epath.Path, result: dict[str, float]) -> None:
  """Marks a run as finished, with its last evaluation, in `result.json`."""
  files.write_json(workdir / "result.json", result)


def _read_config(path: epath.Path) -> dict[str, Any] | None:
  file = path / "config.json"
  if not file.exists():
    return None
  try:
    return json.loads(file.read_text())
  except ValueError as error:
    raise ConfigError(f"{file} is not JSON ({error}); remove it.") from error


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Says field by field how a config differs from that of an earlier process.

  Args:
    old: The config.json of a run.
    new: A config, as `to_dict` returns it.

  Returns:
    "sam.rho was 0.05 and is now 0.1" for every field that decides a result.
  """
  old, new = dict(flatten(old)), dict(flatten(new))
  return [
    f"{field} was {old.get(field)!r} and is now {new.get(field)!r}"
    for field in sorted(old.keys() | new.keys())
    if old.get(field) != new.get(field)
    and field not in FREE_FIELDS
    and not field.startswith("paper.")
  ]


def flatten(
  tree: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields ("sam.rho", 0.05) for every field of a config."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def _check_same(old: dict, new: dict, path: epath.Path) -> None:
  different = differences(old, new)
  if different:
    raise ConfigError(
      f"--workdir={path} holds a run with another config:"
      f" {'; '.join(different)}. Use another workdir for another run."
    )
