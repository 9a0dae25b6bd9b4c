"""The type and the rule of one field of a config."""

import ast
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Literal

from sam_jax.config.hints import did_you_mean


class ConfigError(ValueError):
  """A config, a command line, or a file that one of them names is invalid."""


# Steps, batches and most other integers become 32-bit ones of JAX.
_INTEGERS_END = 2**31

# Names need no quotes on a command line: wandb,mlflow is ("wandb", "mlflow").
_NAME = r"[A-Za-z_][\w.:]*"
_WORDS = re.compile(rf"{_NAME}(,{_NAME})*,?")

_KINDS = {
  bool: "true or false",
  dict: "a dictionary, as in {'name': 1}",
  float: "a number",
  int: "an integer",
  str: "a string",
  tuple: "a tuple, as in (1, 2)",
}


@dataclasses.dataclass(frozen=True)
class Field:
  """One row of the schema.

  Attributes:
    default: Value unless a config says otherwise. A field whose default is None
      is optional; every other field must have a value.
    optional_kind: Type of an optional field. Other fields have the type of
      their default.
    help: One line for the user.
    choices: All values that are allowed; empty: any.
    ge: The value must be greater than or equal to this number.
    gt: The value must be greater than this number.
    le: The value must be less than or equal to this number.
    lt: The value must be less than this number. Integers without an upper limit
      must fit into 32 bits.
    may_be_inf: Infinity is allowed.
    is_path: The value is the path of a file or directory. A different path is
      the same experiment; no path is a different one.
    decides: Effect of a different value. "experiment": it measures something
      else. "run": the run is another sample of the same experiment. "nothing":
      the trained network is bitwise equal, so the field may change when a run
      resumes.
    per_host: Processes of one run may have different values.
    is_argument: The value is an argument of the compiled training step: runs
      that differ only in it share one program. 0 and None, which switch a part
      of the step off, are constants of the program.
  """

  default: Any
  optional_kind: type | None = None
  _: dataclasses.KW_ONLY
  help: str
  choices: tuple[str, ...] = ()
  ge: float | None = None
  gt: float | None = None
  le: float | None = None
  lt: float | None = None
  may_be_inf: bool = False
  is_path: bool = False
  decides: Literal["experiment", "run", "nothing"] = "experiment"
  per_host: bool = False
  is_argument: bool = False

  @property
  def kind(self) -> type:
    """Return the type of values other than None."""
    return self.optional_kind or type(self.default)

  @property
  def is_optional(self) -> bool:
    """Return True if the value may be None."""
    return self.default is None

  @property
  def rule(self) -> str:
    """Return the rule for a value, such as "a number >= 0, or None"."""
    if self.choices:
      words = f"one of {', '.join(self.choices)}"
    else:
      infinity = ", or inf" if self.may_be_inf else ""
      words = f"{self._noun} {self._limits()}".rstrip() + infinity
    return f"{words}, or None" if self.is_optional else words

  def parse(self, text: str) -> Any:
    """Return the value that a text on the command line stands for.

    Raises:
      ValueError: The text is not a value of this field; the message states
        the rule, such as "must be an integer."
    """
    try:
      value = None if text == "None" else _PARSERS[self.kind](text)
    except (ValueError, SyntaxError):
      raise ValueError(f"must be {self._kind_in_words()}.") from None
    self.check(value)
    return value

  def check(self, value: Any) -> None:
    """Check the type, the choices and the range of a value.

    Raises:
      ValueError: One of them is wrong; the message states the rule.
    """
    if value is None and self.is_optional:
      return
    if not _is_instance(value, self.kind):
      example = f", such as {self.default!r}" if value is None else ""
      raise ValueError(f"must be {self._kind_in_words()}{example}.")
    if self.choices and value not in self.choices:
      raise ValueError(f"is unknown. {did_you_mean(value, self.choices)}")
    if self.kind in (int, float):
      self._check_number(value)

  def _check_number(self, value: float) -> None:
    try:
      number = float(value)
    except OverflowError:  # an integer beyond the range of floats
      number = math.inf
    if self.kind is int and self.lt is None and number >= _INTEGERS_END:
      raise ValueError(f"must be less than {_INTEGERS_END}.")
    if not self._is_in_range(number):
      infinite = " and finite" if math.isinf(number) else ""
      raise ValueError(f"must be {self._limits()}{infinite}.")

  @property
  def _noun(self) -> str:
    return "a path" if self.is_path else _KINDS[self.kind]

  def _kind_in_words(self) -> str:
    return f"{self._noun}, or None" if self.is_optional else self._noun

  def _is_in_range(self, value: float) -> bool:
    # Written so that NaN, which compares as False, is out of every range.
    return (
      (self.ge is None or value >= self.ge)
      and (self.gt is None or value > self.gt)
      and (self.le is None or value <= self.le)
      and (self.lt is None or value < self.lt)
      and (self.may_be_inf or math.isfinite(value))
    )

  def _limits(self) -> str:
    """Return the range in words, such as ">= 0" or "in [0, 1)"."""
    lower = self.ge if self.gt is None else self.gt
    upper = self.le if self.lt is None else self.lt
    if upper is None:
      sign = ">=" if self.gt is None else ">"
      return "" if lower is None else f"{sign} {lower}"
    opening = "[" if self.gt is None else "("
    closing = "]" if self.lt is None else ")"
    return f"in {opening}{lower}, {upper}{closing}"


def parse_option(text: str) -> Any:
  """Return the value of a free-form option: a Python literal or a string."""
  if text.lower() in ("true", "false"):
    return text.lower() == "true"
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def check_option(value: Any) -> None:
  """Check that config.json can hold the value of a free-form option.

  Raises:
    ValueError: It can't; the message states the rule.
  """
  parts = value if isinstance(value, list | tuple) else [value]
  if not all(isinstance(p, bool | int | float | str | None) for p in parts):
    raise ValueError("must be a number, a string, a boolean, or some of them.")


def _is_instance(value: Any, kind: type) -> bool:
  if isinstance(value, bool):  # bool is a subclass of int
    return kind is bool
  if kind is float:
    return isinstance(value, int | float)
  return isinstance(value, list | tuple if kind is tuple else kind)


def _parse_bool(text: str) -> bool:
  try:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
  except KeyError:
    raise ValueError(text) from None


def _parse_tuple(text: str) -> tuple[Any, ...]:
  if _WORDS.fullmatch(text):
    return tuple(word for word in text.split(",") if word)
  value = ast.literal_eval(text)
  return tuple(value) if isinstance(value, list | tuple) else (value,)


def _parse_dict(text: str) -> dict[str, Any]:
  value = ast.literal_eval(text)
  if not isinstance(value, dict):
    raise ValueError(text)
  return value


_PARSERS: dict[type, Callable[[str], Any]] = {
  bool: _parse_bool,
  dict: _parse_dict,
  float: float,
  int: int,
  str: str,
  tuple: _parse_tuple,
}
