"""Config files: where they are, and what their functions return."""

import ast
import contextlib
import importlib.util
import pathlib
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.field_type import ConfigError
from sam_jax.config.hints import closest
from sam_jax.config.schema import check_fields

# Directories that have configs/: in a wheel the package itself, in a checkout
# the directory above it.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_HOMES = [
  home for home in (_PACKAGE, _PACKAGE.parent) if (home / "configs").is_dir()
]


def read_config(source: str) -> ConfigDict:
  """Return the config that a file makes, locked.

  Args:
    source: "FILE" or "FILE:WORDS", such as configs/digits.py:sam. A relative
      path is looked up in the current directory and then among the configs of
      this project.

  Raises:
    ConfigError: There is no such file, it has no get_config, or get_config
      fails or returns something else; one line says why.
  """
  file, colon, words = source.partition(":")
  get_config = _function(file, "get_config")
  with _executing(file):
    config = get_config(words) if colon else get_config()
    if not isinstance(config, ConfigDict):
      kind = type(config).__name__
      raise ValueError(f"get_config must return a ConfigDict, not {kind}.")
    check_fields(config)
  return config.lock()


def read_sweep(source: str) -> list[dict[str, Any]]:
  """Return the runs that the function `sweep` of a config file yields.

  Args:
    source: As in `read_config`.

  Returns:
    For each run its fields, such as {"variant": "sam", "sam.rho": 0.1}.

  Raises:
    ConfigError: There is no such file, it has no sweep, or sweep fails or
      yields something else; one line says why.
  """
  file, _, words = source.partition(":")
  sweep = _function(file, "sweep")
  with _executing(file):
    runs = list(sweep(words))
  if not runs:
    raise ConfigError(f"--config={file}: sweep yields no run.")
  for run in runs:
    is_dict = isinstance(run, Mapping) and all(isinstance(k, str) for k in run)
    if not is_dict or not isinstance(run.get("variant", ""), str):
      text = " ".join(repr(run).split())
      raise ConfigError(
        f"--config={file}: sweep must yield dictionaries such as"
        f' {{"variant": "sam", "seed": 1}}, not {text[:80]}.'
      )
  return runs


def project_config(name: str) -> pathlib.Path:
  """Return the path of a config of this project, such as "cifar"."""
  return next(path for path in _project_configs() if path.stem == name)


def titles() -> dict[str, str]:
  """Return the first line of the docstring of each config of this project."""
  found = {}
  for path in sorted(set(_project_configs())):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    found[f"configs/{path.name}"] = title
  return found


def load(file: str) -> types.ModuleType:
  """Execute a config file and return its module.

  Raises:
    ConfigError: There is no such file, or it fails; one line says why.
  """
  path = _find(file)
  # Its own name may be that of an installed module.
  name = f"sam_jax_config_{path.stem}"
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise ConfigError(f"--config={file} is not a Python file.")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  with _executing(file):
    spec.loader.exec_module(module)
  return module


def _project_configs() -> list[pathlib.Path]:
  return [file for home in _HOMES for file in (home / "configs").glob("*.py")]


def _function(file: str, name: str) -> Any:
  module = load(file)
  if not hasattr(module, name):
    remedy = " Use --grid." if name == "sweep" else ""
    raise ConfigError(f"--config={file} has no function {name}.{remedy}")
  return getattr(module, name)


def _find(file: str) -> pathlib.Path:
  for home in (pathlib.Path.cwd(), *_HOMES):
    path = home / pathlib.Path(file).expanduser()
    if path.is_file():
      return path
  if path.is_dir() or not file:
    raise ConfigError(
      f"--config={file} must name a file, such as configs/digits.py:sam."
    )
  hint = closest(path.stem, [known.stem for known in _project_configs()])
  remedy = f" Did you mean configs/{hint}.py?" if hint else ""
  raise ConfigError(f"--config={file}: there is no such file.{remedy}")


@contextlib.contextmanager
def _executing(file: str) -> Iterator[None]:
  """Let a config file import its neighbors, and report errors in one line."""
  path = _find(file)
  # Modules that are installed come before those next to configs/.
  own, homes = str(path.absolute().parent), [str(home) for home in _HOMES]
  sys.path[:] = [own, *sys.path, *homes]
  try:
    yield
  except Exception as error:  # a config file is a program, and raises anything
    raise ConfigError(f"--config={file}{_describe(error, path)}") from error
  finally:
    # By identity: the file may have added directories, equal ones too.
    added = {id(own), *map(id, homes)}
    sys.path[:] = [entry for entry in sys.path if id(entry) not in added]


def _describe(error: Exception, path: pathlib.Path) -> str:
  """Return the line of a config file that an error comes from, and its text."""
  text = (str(error).strip().splitlines() or [""])[0]
  if isinstance(error, ValueError):  # a wrong word says all that is needed
    return f": {text}"
  frames = traceback.extract_tb(error.__traceback__)
  lines = [f.lineno for f in frames if pathlib.Path(f.filename) == path]
  where = f", line {lines[-1]}" if lines else ""
  return f"{where}: {type(error).__name__}: {text}"
