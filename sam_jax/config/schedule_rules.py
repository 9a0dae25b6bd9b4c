"""Rules for the fields of a schedule, see `schedule_fields.py`."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sam_jax import wording
from sam_jax.config.field_type import ConfigError
from sam_jax.config.schedule_fields import schedule_fields

# Group -> the number in it that follows a schedule.
_NUMBERS = {"optimizer": "learning_rate", "sam": "rho"}

_SMOOTH = ("cosine", "exponential", "linear")
# Group -> field -> the schedules that use it, the most common one first. All
# schedules use a field that is not here.
_USERS: dict[str, dict[str, tuple[str, ...]]] = {
  "optimizer": {
    "learning_rate_min": _SMOOTH,
    "schedule_start": (*_SMOOTH, "step"),
    "schedule_end": (*_SMOOTH, "step"),
    "step_at": ("step",),
    "step_factor": ("step",),
  },
  "sam": {
    "rho_min": ("learning_rate", *_SMOOTH),
    "step_at": ("step",),
    "step_factor": ("step",),
  },
}


def check(config: ConfigDict) -> None:
  """Check the schedules of the learning rate and of rho.

  Args:
    config: A config whose fields are valid when checked one at a time.

  Raises:
    ConfigError: A rule is broken; the message has the field, its value and the
      remedy.
  """
  for unused in unused_fields(config):
    raise ConfigError(unused.message)
  for group, number in _scheduled(config):
    _check_range(config, group, number)
    _check_window(config, group, number)
    _check_steps(config, group)


class Unused(NamedTuple):
  """A field that is set but has no effect.

  Attributes:
    name: Its dotted name.
    default: Its default.
    cause: Dotted name of the field whose value decides that.
    message: One line with the value, the cause and the remedy.
  """

  name: str
  default: Any
  cause: str
  message: str


def unused_fields(config: ConfigDict) -> list[Unused]:
  """Return the fields that are set but that the chosen schedule ignores."""
  found = []
  for group, number in _scheduled(config):
    cause, kind = f"{group}.schedule", config[group].schedule
    for name, field in schedule_fields(group, number).items():
      users = _USERS[group].get(name.rpartition(".")[2], (kind,))
      value = _value(config, name)
      if kind not in users and value != field.default:
        message = (
          f"config.{name} = {value!r} has no effect with config.{cause} ="
          f" {kind!r}: set it to {field.default!r}, its default, or the"
          f" schedule to {users[0]!r}."
        )
        found.append(Unused(name, field.default, cause, message))
  return found


def _scheduled(config: ConfigDict) -> list[tuple[str, str]]:
  """Return the groups, and the number of each that follows a schedule.

  With rho = 0, the usual way to plain descent, all fields of SAM are unused.
  """
  groups = _NUMBERS if config.sam.rho else {"optimizer": "learning_rate"}
  return list(groups.items())


def _value(config: ConfigDict, name: str) -> Any:
  """Return the value of "group.field"; a list, as JSON has it, as a tuple."""
  group, _, last = name.partition(".")
  value = config[group][last]
  return tuple(value) if isinstance(value, list) else value


def _check_range(config: ConfigDict, group: str, number: str) -> None:
  fields, at = config[group], f"config.{group}"
  peak, lowest = fields[number], fields[f"{number}_min"]
  if lowest is not None and lowest > peak:
    raise ConfigError(
      f"{at}.{number}_min = {lowest} must be at most {at}.{number} = {peak}."
    )
  if lowest == 0 and fields.schedule == "exponential":
    raise ConfigError(
      f"{at}.{number}_min = 0 is no end of {at}.schedule = 'exponential': use a"
      " positive number, or None for 1.2% of the peak."
    )


def _check_window(config: ConfigDict, group: str, number: str) -> None:
  fields, at = config[group], f"config.{group}"
  if fields.warmup_epochs > config.num_epochs:
    raise ConfigError(
      f"{at}.warmup_epochs = {fields.warmup_epochs} must be at most"
      f" config.num_epochs = {config.num_epochs}: {number} would never reach"
      " its peak."
    )
  start, end = fields.schedule_start or 0, fields.schedule_end or 1
  if start >= end:
    raise ConfigError(
      f"{at}.schedule_start = {start} must be less than {at}.schedule_end ="
      f" {end}."
    )
  window = (end - start) * config.num_epochs
  if group == "sam" and fields.warmup_epochs > window:
    raise ConfigError(
      f"{at}.warmup_epochs = {fields.warmup_epochs} must be at most the"
      f" {wording.count(f'{window:.3g}', 'epoch')} between schedule_start and"
      f" schedule_end: {number} would never reach its peak."
    )


def _check_steps(config: ConfigDict, group: str) -> None:
  at, step_at = f"config.{group}", config[group].step_at
  if config[group].schedule != "step":
    return
  if not step_at:
    raise ConfigError(
      f"{at}.step_at = () must hold the fractions at which {at}.schedule ="
      " 'step' steps, such as (0.5, 0.75)."
    )
  for fraction in step_at:
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
      raise ConfigError(f"{at}.step_at: {fraction!r} must be a number.")
    if not 0 < fraction < 1:
      raise ConfigError(f"{at}.step_at: {fraction} must be in (0, 1).")
  ascending = tuple(sorted({*step_at}))
  if tuple(step_at) != ascending:
    raise ConfigError(
      f"{at}.step_at = {tuple(step_at)} must ascend, as in {ascending}."
    )
