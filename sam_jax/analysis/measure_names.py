"""Measures by name, with options: texts such as "average:sigma=0.02,adaptive".

Options are the keyword arguments of the functions in `measures.py`. An option
that is true or false may be named without a value, for true.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sam_jax.analysis import measures
from sam_jax.analysis.measured_network import MeasuredNetwork, Variables
from sam_jax.analysis.monte_carlo import Estimate
from sam_jax.config.hints import did_you_mean

MEASURES: dict[str, Callable[..., Estimate]] = {
  "one_step": measures.one_step,
  "worst": measures.worst,
  "average": measures.average,
  "eigenvalue": measures.eigenvalue,
  "trace": measures.trace,
  "noise": measures.noise,
  "rank": measures.rank,
}

# The most common form of each.
DEFAULT = (
  "one_step",
  "worst",
  "worst:p=inf,rho=0.002,adaptive,normalize",
  "average",
  "average:sigma=0.1,adaptive",
  "eigenvalue",
  "trace",
  "noise",
  "rank",
)


class Measure(NamedTuple):
  """A measure with all of its options.

  Attributes:
    text: The text that chose it.
    name: Its name in `MEASURES`.
    options: Values of all options, by name.
  """

  text: str
  name: str
  options: dict[str, Any]

  def __call__(
    self,
    network: MeasuredNetwork,
    variables: Variables,
    seed: int,
    on_work: Callable[[int], Any] = lambda done: None,
  ) -> Estimate:
    """Measure a network, see `measures.py`."""
    return MEASURES[self.name](
      network, variables, seed, on_work, **self.options
    )

  def work(self, num_examples: int) -> int:
    """Return the number that `on_work` counts up to."""
    if "m" in self.options:
      return num_examples // self.options["m"]
    return self.options.get("draws", self.options.get("steps", 1))

  def check(self, num_examples: int) -> None:
    """Check that there are enough examples.

    Raises:
      ValueError: There are not.
    """
    needed = self.options.get("m", 2 if self.name == "noise" else 1)
    if num_examples < needed:
      raise ValueError(
        f"{self.text} needs at least {needed} examples, not {num_examples}."
      )


def parse_measures(texts: Sequence[str]) -> list[Measure]:
  """Parse texts, see `parse_measure`; repeated ones count once.

  Raises:
    ValueError: One is no such text.
  """
  for text in texts:
    if not isinstance(text, str):
      raise ValueError(f"{text!r} must be a string, as in 'average'.")
  return [parse_measure(text) for text in dict.fromkeys(texts)]


def parse_measure(text: str) -> Measure:
  """Parse a text such as "worst:rho=0.1,p=inf,adaptive".

  Raises:
    ValueError: There is no such measure or option, or a value is out of range.
  """
  name, _, words = text.partition(":")
  if name not in MEASURES:
    raise ValueError(f"{name!r} is no measure. {did_you_mean(name, MEASURES)}")
  parameters = inspect.signature(MEASURES[name]).parameters.values()
  options = {
    each.name: each.default
    for each in parameters
    if each.kind is each.KEYWORD_ONLY
  }
  for word in filter(None, words.split(",")):
    option, _, value = word.partition("=")
    if option not in options:
      known = did_you_mean(option, options)
      raise ValueError(f"{text}: {name} has no option {option!r}. {known}")
    try:
      options[option] = _parse_value(option, value, type(options[option]))
    except ValueError as error:
      raise ValueError(f"{text}: {option} {error}") from None
  return Measure(text, name, options)


def _parse_value(option: str, text: str, kind: type) -> Any:
  """Return the value of an option.

  Raises:
    ValueError: It is not of this kind, or out of range; the message is the end
      of a sentence about the option.
  """
  if kind is bool:
    if text.lower() not in ("", "true", "false"):
      raise ValueError("must be true or false.")
    return text.lower() != "false"
  try:
    value = kind(text)
  except ValueError:
    noun = "an integer" if kind is int else "a number"
    raise ValueError(f"must be {noun}.") from None
  if option == "p":
    if value not in (2, math.inf):
      raise ValueError("must be 2 or inf.")
  elif not 0 < value < (math.inf if kind is float else 2**31):
    raise ValueError("must be above 0, and finite.")
  if option == "variance" and value > 1:
    raise ValueError("must be at most 1.")
  return value
