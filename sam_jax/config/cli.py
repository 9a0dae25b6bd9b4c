"""Command lines: flags, a config and its overrides, and errors in one line."""

import functools
import gc
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from etils import epath
from ml_collections import ConfigDict

from sam_jax import buckets, paths
from sam_jax.config import files
from sam_jax.config.field_type import ConfigError, check_option, parse_option
from sam_jax.config.fields import FIELDS
from sam_jax.config.hints import closest
from sam_jax.config.schema import field_of, help_text, suggest_field, update
from sam_jax.runs import compilation

flags.disclaim_key_flags()  # --help shows --config as the program's own

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


def run(main: Callable[[list[str]], None]) -> None:
  """Run the main function of a command, and report its errors.

  Args:
    main: Takes the program's name and the arguments that are no flags.
  """
  compilation.choose_xla_flags()
  try:
    app.run(lambda argv: report_errors(main, argv), flags_parser=parse_flags)
  finally:
    # Python ends with garbage collections: they would search all modules.
    gc.freeze()


def report_errors(main: Callable[[list[str]], None], argv: list[str]) -> None:
  """Call a main function, and report an error of the user in one line.

  A workdir that can't be read or written now is no mistake: exit code 1.
  """
  # Paths and damaged files may hold text that has no encoding.
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")
  try:
    main(argv)
  except OSError as error:
    from sam_jax.runs.workdir import WorkdirLostError  # imports JAX

    if not isinstance(error, WorkdirLostError):
      raise
    sys.exit(f"error: {error}")
  except ValueError as error:
    from sam_jax.datasets.catalog import DatasetError  # imports NumPy

    if not isinstance(error, ConfigError | DatasetError):
      raise
    refuse(str(error))


def ends_at_interrupt(
  main: Callable[[list[str]], None],
) -> Callable[[list[str]], None]:
  """Let a main function end with one line and exit code 130 at Ctrl-C."""

  @functools.wraps(main)
  def wrapped(argv: list[str]) -> None:
    try:
      main(argv)
    except KeyboardInterrupt:
      print("\nStopped.", file=sys.stderr, flush=True)
      sys.stdout.flush()
      os._exit(130)  # a normal exit would crash in XLA while it computes

  return wrapped


def refuse(message: str) -> NoReturn:
  """Report in one line why a program can't start, and exit with code 2."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def show(text: str) -> None:
  """Print a text, of which a reader such as `head` may take a part."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    # Nor may the rest fail at exit, when Python flushes the stream again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_arguments(argv: Sequence[str], *required: str) -> None:
  """Refuse arguments that are no flags, and flags that are missing.

  Args:
    argv: The program's name and the arguments that are no flags.
    *required: Names of flags that must have a value.
  """
  if argv[1:]:
    refuse(f"Unexpected arguments: {' '.join(argv[1:])}")
  for name in required:
    if not flags.FLAGS[name].value:
      refuse(f"--{name} is missing, see --help.")


def make_directory(flag: str, directory: epath.PathLike) -> epath.Path:
  """Create the directory that a flag names, or refuse what can't be one.

  Args:
    flag: Name of the flag.
    directory: Local or gs:// path.

  Returns:
    The directory.
  """
  buckets.check(directory, f"--{flag}")
  path = paths.resolve(directory)
  try:
    paths.make_directory(path)
  except Exception as error:  # gs:// clients raise errors of their own
    refuse(
      f"--{flag}: {path} can't be written: {paths.describe_error(error)}."
      " Choose another directory."
    )
  return path


def make_file(flag: str, file: epath.PathLike) -> epath.Path:
  """Create the directory of a file to write, or refuse what can't be a file.

  Args:
    flag: Name of the flag.
    file: Local or gs:// path; the file may exist.

  Returns:
    The path of the file.
  """
  path = paths.resolve(file)
  make_directory(flag, path.parent)
  if path.is_dir():
    refuse(f"--{flag}={path} is a directory.")
  if (
    not paths.is_remote(path) and path.exists() and not os.access(path, os.W_OK)
  ):
    refuse(f"--{flag}={path} can't be written: Permission denied.")
  return path


class _ConfigFlag(flags.Flag):
  """The flag --config.

  Its value is the text of the flag until `parse` replaces it with the config.

  Attributes:
    config_filename: The text of the flag, "FILE" or "FILE:WORDS".
  """

  config_filename: str | None = None


def define_config(
  values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder[ConfigDict]:
  """Define --config=FILE:WORDS, --config.FIELD=VALUE and --help_config.

  Args:
    values: Where to define them.

  Returns:
    A holder whose value is the config, once `parse` was called.
  """
  flags.DEFINE_bool(
    "help_config",
    False,
    "Show every field of --config, its default and its rule.",
    flag_values=values,
    allow_override=True,
  )
  flag = _ConfigFlag(
    flags.ArgumentParser(),
    flags.ArgumentSerializer(),
    "config",
    None,
    "Config file, with words of its own after a colon; --config.FIELD=VALUE"
    " overrides a field. Required.",
  )
  return flags.DEFINE_flag(flag, values)


def parse_flags(argv: list[str]) -> list[str]:
  """Parse flags for absl's `app.run`; refuse a wrong one."""
  try:
    return parse(flags.FLAGS, argv)
  except ConfigError as error:
    refuse(str(error))
  except SystemExit as end:
    if end.code != 1:
      raise
    # absl has shown the help, and would end as if something had failed.
    if _config_flag(flags.FLAGS) is not None:
      show(f"\n{_known_values()}")
    sys.exit()


def _known_values() -> str:
  """Return the configs, networks and data sets that a command line can name."""
  from sam_jax.datasets import catalog
  from sam_jax.models import registry

  networks = [name for f in registry.families() for name in f.names]
  datasets = catalog.known_datasets()
  lists = [
    ("--config.model.name", "python -m sam_jax.models", networks),
    ("--config.dataset.name", "python -m sam_jax.datasets", datasets),
  ]
  lines = ["--config: a file of your own, or one of these, which list words:"]
  lines += [f"  {name:27} {title}" for name, title in files.titles().items()]
  for field, command, names in lists:
    text = textwrap.fill(
      f"{', '.join(names)}.",
      80,
      initial_indent="  ",
      subsequent_indent="  ",
      break_on_hyphens=False,
    )
    lines += ["", f"{field}: sizes are in `{command}`.", text]
  return "\n".join(lines)


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Parse a command line.

  Overrides of fields are checked against the schema before absl sees the other
  flags and before the config file is executed.

  Args:
    values: The flags.
    argv: The program and its arguments.

  Returns:
    The arguments that are no flags.

  Raises:
    ConfigError: One of them is wrong, or the config file is.
  """
  flag = _config_flag(values)
  overrides: dict[str, Any] = {}
  if flag is not None:
    argv = values.read_flags_from_files(list(argv), force_gnu=False)
    argv, overrides = _split_overrides(argv)
  try:
    rest = values(argv)
  except flags.UnrecognizedFlagError as error:
    raise ConfigError(_unknown_flag(error.flagname, values)) from error
  except flags.Error as error:
    raise ConfigError(str(error).splitlines()[0]) from error
  if flag is None:
    return rest
  if values["help_config"].value:
    show(help_text())
    sys.exit()
  if isinstance(flag.value, str):
    flag.config_filename = flag.value
    flag.value = files.read_config(flag.value)
  if overrides and flag.value is None:
    raise ConfigError(f"--config.{min(overrides)} needs --config=FILE.")
  update(flag.value, overrides)
  return rest


def read_config(arguments: Sequence[str]) -> ConfigDict:
  """Return the config of arguments such as --config=FILE --config.seed=1.

  Raises:
    ConfigError: One of them is wrong.
  """
  values = flags.FlagValues()
  holder = define_config(values)
  parse(values, ["", *arguments])
  return holder.value


def is_override(argument: str) -> bool:
  """Return True if an argument is --config.FIELD=VALUE or similar."""
  return _OVERRIDE.fullmatch(argument) is not None


def _config_flag(values: flags.FlagValues) -> _ConfigFlag | None:
  """Return the flag that `define_config` defined, if it did."""
  if "config" not in values:
    return None
  flag = values["config"]
  return flag if isinstance(flag, _ConfigFlag) else None


def _split_overrides(
  argv: Sequence[str],
) -> tuple[list[str], dict[str, Any]]:
  """Take the overrides of fields out of a command line.

  An override is --config.FIELD=VALUE, --config.FIELD VALUE or, of a boolean
  field, --config.FIELD or --noconfig.FIELD; one hyphen does, too.

  Returns:
    The other arguments; the values by field.

  Raises:
    ConfigError: A field is unknown, or a value breaks the rule of its field.
  """
  others: list[str] = []
  overrides: dict[str, Any] = {}
  arguments = iter(argv)
  for argument in arguments:
    match = _OVERRIDE.fullmatch(argument)
    if argument == "--":
      return [*others, argument, *arguments], overrides
    if match is None:
      others.append(argument)
      continue
    negation, name, text = match.groups()
    field = field_of(name)
    if field is None:
      remedy = suggest_field(name, "--config.")
      raise ConfigError(f"Unknown field --config.{name}. {remedy}")
    if text is not None and negation:
      raise ConfigError(f"{argument} must be --config.{name}={text}.")
    if text is None and field.kind is bool:
      text = "false" if negation else "true"
    elif text is None and not negation:
      text = next(arguments, None)
    if text is None:
      raise ConfigError(f"{argument} must be --config.{name}=VALUE.")
    overrides |= _parse_override(name, text)
  return others, overrides


def _parse_override(name: str, text: str) -> dict[str, Any]:
  """Return the values by field: several for a dictionary of options."""
  try:
    if name not in FIELDS:
      value = parse_option(text)
      check_option(value)
      return {name: value}
    value = FIELDS[name].parse(text)
    if FIELDS[name].kind is not dict:
      return {name: value}
    for option in value.values():
      check_option(option)
    return {f"{name}.{option}": value[option] for option in value}
  except ValueError as error:
    raise ConfigError(f"--config.{name}={text} {error}") from error


def _unknown_flag(name: str, values: flags.FlagValues) -> str:
  """Return what is wrong with a flag, and which one was probably meant."""
  hint = f"config.{name}" if field_of(name) else closest(name, values)
  remedy = f"Did you mean --{hint}?" if hint else "See --help."
  return f"Unknown flag --{name}. {remedy}"
