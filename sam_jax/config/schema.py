"""The schema of configs: what `fields.py` says, as functions."""

import functools
import json
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from sam_jax.config.field_type import ConfigError, Field, check_option
from sam_jax.config.fields import FIELDS
from sam_jax.config.hints import closest_fields, did_you_mean

__all__ = [
  "ConfigError",
  "arguments",
  "check_fields",
  "check_values",
  "default_config",
  "default_fields",
  "did_you_mean",
  "experiment",
  "field_of",
  "flatten",
  "free_fields",
  "help_text",
  "host_fields",
  "markdown_table",
  "suggest_field",
  "update",
  "validate_config",
]


def default_config() -> ConfigDict:
  """Return a config in which every field has its default."""
  tree: dict[str, Any] = {}
  for name, field in FIELDS.items():
    *groups, last = name.split(".")
    group = tree
    for each in groups:
      group = group.setdefault(each, {})
    is_optional = field.is_optional
    group[last] = placeholder(field.kind) if is_optional else field.default
  return ConfigDict(tree)


@functools.cache
def default_fields() -> Mapping[str, Any]:
  """Return the default of every field by its dotted name, as in config.json."""
  config = json.loads(default_config().to_json_best_effort())
  return types.MappingProxyType(dict(flatten(config)))


def field_of(name: str) -> Field | None:
  """Return the row of a field or of a free-form option, or None.

  Args:
    name: Dotted name, such as "sam.rho", or "sam.options.sigma", which belongs
      to the row "sam.options".
  """
  if name in FIELDS:
    return FIELDS[name]
  options = FIELDS.get(name.rpartition(".")[0])
  return options if options and options.kind is dict else None


def free_fields() -> frozenset[str]:
  """Return the fields that decide no result: they may change on a resume."""
  return frozenset(k for k, f in FIELDS.items() if f.decides == "nothing")


def arguments(config: ConfigDict) -> dict[str, Any]:
  """Return the numbers that a compiled training step takes as arguments.

  Returns:
    Numbers, or tuples of them, by dotted name, such as {"sam.rho": 0.05}: the
    fields marked by `Field.is_argument`, except those that are 0, () or None.
  """
  flat = dict(flatten(config.to_dict()))
  return {k: flat[k] for k, f in FIELDS.items() if f.is_argument and flat[k]}


def host_fields() -> frozenset[str]:
  """Return the fields that may differ between the processes of a run."""
  return frozenset(name for name, field in FIELDS.items() if field.per_host)


def experiment(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields that decide what is measured.

  Runs that agree in them are samples of one experiment: they may differ in
  their seed, and in fields that decide nothing.

  Args:
    fields: A flat config, such as {"sam.rho": 0.05}. Fields that are not in the
      schema are kept.
  """

  def is_kept(name: str) -> bool:
    field = field_of(name)
    return field is None or field.decides == "experiment"

  return {name: value for name, value in fields.items() if is_kept(name)}


def flatten(
  tree: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yield ("sam.rho", 0.05) for every field of a config as nested dicts."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def update(config: ConfigDict, fields: Mapping[str, Any]) -> None:
  """Set fields by their dotted names; free-form options may be new ones.

  Args:
    config: Config to change, locked or not.
    fields: Values such as {"sam.rho": 0.05, "sam.options.sigma": 1.0}.
  """
  for name, value in fields.items():
    *groups, last = name.split(".")
    group = config
    for each in groups:
      group = group[each]
    with group.unlocked():
      if name not in FIELDS and last in group:
        del group[last]  # an option may change its type
      group[last] = value


def suggest_field(name: str, prefix: str = "config.") -> str:
  """Return what to do about the name of a field that does not exist.

  Args:
    name: Dotted name.
    prefix: Put before names of fields.
  """
  members = [known for known in FIELDS if known.startswith(f"{name}.")]
  if members:
    return f"It is a group: {prefix}{members[0]} ... {prefix}{members[-1]}."
  if close := closest_fields(name, FIELDS):
    return f"Did you mean {' or '.join(f'{prefix}{each}' for each in close)}?"
  group, _, last = name.rpartition(".")
  if f"{group}.options" in FIELDS:
    return f"An option of {group}.name is {prefix}{group}.options.{last}."
  return "See --help_config."


def help_text() -> str:
  """Return the text of --help_config: every field, its rule and its help."""
  lines = ["Fields of a config, with their defaults and what they may be:"]
  indent = " " * 6
  for name, field in FIELDS.items():
    lines.append(f"--config.{name}={field.default}  ({field.rule})")
    lines += textwrap.wrap(
      field.help,
      80,
      initial_indent=indent,
      subsequent_indent=indent,
      break_on_hyphens=False,
    )
  return "\n".join(lines)


def markdown_table() -> str:
  """Return a Markdown table of every field, its rule and its help."""
  lines = ["| Field | Default | Rule | Meaning |", "| --- | --- | --- | --- |"]
  for name, field in FIELDS.items():
    cells = (f"`{name}`", f"`{field.default!r}`", field.rule, field.help)
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def check_fields(config: ConfigDict) -> None:
  """Check that a config has the fields of the schema, no more and no fewer.

  Raises:
    ConfigError: A field is missing or unknown; the message names it.
  """
  names = [name for name, _ in flatten(config.to_dict())]
  for name in names:
    if field_of(name) is None:
      raise ConfigError(
        f"config.{name} is a field that nothing reads. {suggest_field(name)}"
      )
  missing = [name for name in FIELDS if not _has(config, name)]
  if missing:
    raise ConfigError(
      f"The config lacks {', '.join(missing[:3])}: let get_config start from"
      " default_config() of sam_jax/config/schema.py."
    )


def validate_config(config: ConfigDict, num_devices: int) -> None:
  """Check every rule that a config must obey, before any other work.

  Args:
    config: A config.
    num_devices: Devices of the run, over all hosts.

  Raises:
    ConfigError: A rule is broken; the message has the field, its value and the
      remedy.
  """
  from sam_jax.config import relations  # imports the networks, and so JAX

  check_fields(config)
  check_values(dict(flatten(config.to_dict())))
  relations.check(config, num_devices)


def check_values(fields: Mapping[str, Any], prefix: str = "config.") -> None:
  """Check that each value obeys the rule of its field, or that of options.

  Args:
    fields: A flat config, such as {"sam.rho": 0.05}.
    prefix: Put before the name of a field.

  Raises:
    ConfigError: A value does not; the message has the field and its value.
  """
  for name, value in fields.items():
    try:
      if name in FIELDS:
        FIELDS[name].check(value)
      else:
        check_option(value)
    except ValueError as error:
      text = " ".join(repr(value).split())  # that of an array has several lines
      text = text if len(text) <= 80 else f"{text[:77]}..."
      raise ConfigError(f"{prefix}{name} = {text} {error}") from error


def _has(config: ConfigDict, name: str) -> bool:
  for part in name.split("."):
    if not isinstance(config, ConfigDict) or part not in config:
      return False
    config = config[part]
  return True
