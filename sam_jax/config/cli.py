"""Command lines of flags and a config: what they say, or one line why not."""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

flags.disclaim_key_flags()  # --help shows --config as the program's own

_KINDS = {bool: "true or false", int: "an integer", float: "a number"}


class CommandLineError(ValueError):
  """A command line that can't be obeyed; one line says why."""


def refuse(message: str) -> NoReturn:
  """Says in one line why a program can't start, and ends it."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def make_directory(flag: str, directory: str | os.PathLike) -> pathlib.Path:
  """Makes the directory that a flag names, or refuses what can't be one."""
  path = pathlib.Path(directory)
  try:
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
      raise PermissionError(0, "Permission denied")
  except OSError as error:
    refuse(
      f"--{flag}: {path} can't be written: {error.strerror}. Choose another"
      " directory."
    )
  return path


def define_config(
  values: flags.FlagValues = flags.FLAGS, argv: Sequence[str] | None = None
) -> flags.FlagHolder[ConfigDict]:
  """Defines --config=FILE:VARIANT and, by it, --config.FIELD=VALUE.

  Args:
    values: Where to define them.
    argv: The command line that `values` will parse; None for this program's.
  """
  return config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with its arguments after a colon.",
    flag_values=values,
    sys_argv=argv,
  )


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags for absl's `app.run`; refuses a wrong one."""
  try:
    return parse(flags.FLAGS, argv)
  except CommandLineError as error:
    refuse(str(error))


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Parses a command line.

  With `define_config`, "--config.FIELD=None" unsets an optional field.

  Args:
    values: The flags.
    argv: The program and its arguments.

  Returns:
    The arguments that are no flags.

  Raises:
    CommandLineError: One of them is wrong, or the config file is.
  """
  has_config = (
    "config" in values and values["config"].flag_type() == "config object"
  )
  unset = re.compile(r"--?config\.([\w.]+)=None" if has_config else r"(?!)")
  names = [match[1] for match in map(unset.fullmatch, argv) if match]
  try:
    rest = values([a for a in argv if not unset.fullmatch(a)])
    if has_config and values["config"].present:
      _complete(values["config"].value, names)
    return rest
  except flags.UnrecognizedFlagError as error:
    message = f"Unknown flag --{error.flagname}, see --help."
    raise CommandLineError(_unknown_field(argv) or message) from error
  except Exception as error:  # a config file is a program, and raises anything
    message = _unknown_field(argv) if has_config else ""
    raise CommandLineError(message or _describe(error, argv)) from error


def _complete(config: ConfigDict, unset: Sequence[str]) -> None:
  """Unsets fields, and checks that every field is there."""
  from sam_jax.config.schema import check_fields  # slow to import

  # The attribute raises what kept the file from being read.
  if not hasattr(config, "to_dict"):
    kind = type(config).__name__
    raise TypeError(f"get_config must return a ConfigDict, not {kind}.")
  check_fields(config)
  for name in unset:
    if _default(name)[0] is not None:
      raise ValueError(f"--config.{name}=None must be {_kind(name)}.")
    config.update_from_flattened_dict({name: None})


def _unknown_field(argv: Sequence[str]) -> str:
  """Names an override of a field that no config has, if there is one."""
  from sam_jax.config.schema import closest, field_names

  for argument in argv:
    name = argument.lstrip("-").split("=")[0].removeprefix("config.")
    if argument.startswith("--config.") and name not in field_names():
      hint = closest(name, field_names())
      remedy = f"Did you mean --config.{hint}?" if hint else "See README.md."
      return f"Unknown field --config.{name}. {remedy}"
  return ""


def _describe(error: Exception, argv: Sequence[str]) -> str:
  """Says in one line what ml_collections or a config file says in many."""
  lines = str(error).strip().splitlines() or [""]
  first, last = lines[0], lines[-1].strip()
  override = re.match(r"flag --config\.([\w.]+)=(.*?):", first)
  if override:
    name, value = override.groups()
    return f"--config.{name}={value} must be {_kind(name)}."
  file = _config_file(argv)
  if "whilst parsing config file" in first:
    return f"--config={file}: {last.removeprefix('ValueError: ')}"
  if isinstance(error, (flags.Error, ValueError)) or file is None:
    return first
  if isinstance(error, OSError):
    reason = last.rpartition("failure to load: ")[-1]
    return f"--config={file} can't be read: {reason}"
  if "'get_config'" in first:
    return f"--config={file} has no function get_config."
  return f"--config={file}{_line(error, file)}: {type(error).__name__}: {first}"


def _config_file(argv: Sequence[str]) -> str | None:
  """The last config file of a command line."""
  found = re.findall(r"^--?config[=\n]([^:\n]*)", "\n".join(argv), re.MULTILINE)
  return found[-1] if found else None


def _line(error: Exception, file: str) -> str:
  """Which line of a file an error comes from."""
  frames = traceback.extract_tb(error.__traceback__)
  path = pathlib.Path(file).absolute()
  lines = [f.lineno for f in frames if pathlib.Path(f.filename) == path]
  return f", line {lines[-1]}" if lines else ""


def _kind(name: str) -> str:
  """What the value of a field is, in words."""
  value, kind = _default(name)
  words = _KINDS.get(kind, f"a {kind.__name__}")
  return f"{words}, or None" if value is None else words


def _default(name: str) -> tuple[Any, type]:
  """The default of a field, and its type."""
  from sam_jax.config.schema import default_config

  *parents, leaf = name.split(".")
  config = default_config()
  for parent in parents:
    config = config[parent]
  return config[leaf], config.get_type(leaf)
