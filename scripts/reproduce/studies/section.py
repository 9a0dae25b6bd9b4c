"""A section of the document, and how it writes numbers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sam_jax.reports.results import confidence_half_width
from scripts.reproduce.claims import Claim
from scripts.reproduce.runs import Arm


class Section(NamedTuple):
  """The results of a study.

  Attributes:
    title: Title of the section.
    text: What was trained, and how to read the table.
    header: Header of the table.
    rows: Rows of the table.
    claims: The paper's claims, with what was found.
    draw: Writes the figure to a path; None for no figure.
    caption: Caption of the figure.
  """

  title: str
  text: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  claims: Sequence[Claim]
  draw: Callable[[epath.Path], None] | None = None
  caption: str = ""


def chosen(arm: Arm) -> str:
  """Format the value that was chosen for a method, with those it was among."""
  if arm.chosen is None or len(arm.tried) < 2:
    return "" if arm.chosen is None else format_value(arm.chosen)
  others = ", ".join(format_value(value) for value in arm.tried)
  return f"{format_value(arm.chosen)} of {others}"


def format_value(value: Any) -> str:
  """Format a number without trailing zeros, other values as text."""
  return f"{value:g}" if isinstance(value, int | float) else str(value)


def format_mean(values: np.ndarray, digits: int = 2) -> str:
  """Format a mean and half its 95% interval."""
  half = confidence_half_width(values.tolist())
  return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def format_geometric_mean(values: np.ndarray) -> str:
  """Format a geometric mean and the 95% interval of the mean logarithm."""
  logarithms = np.log(values)
  mean, half = logarithms.mean(), confidence_half_width(logarithms.tolist())
  low, middle, high = np.exp([mean - half, mean, mean + half])
  return f"{middle:.2g} ({low:.2g} to {high:.2g})"
