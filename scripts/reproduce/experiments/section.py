"""A section of the document, and how it writes numbers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from sam_jax.reports.results import confidence_half_width
from scripts.reproduce.claims import Claim
from scripts.reproduce.trained_networks import GridSearch


class Section(NamedTuple):
  """The results of an experiment.

  Attributes:
    title: Title of the section.
    text: Description of the experiment.
    header: Header of the table.
    rows: Rows of the table.
    claims: The paper's claims and their verdicts.
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


def best_test_errors(search: GridSearch) -> np.ndarray:
  """Return the test errors [S] of the best hyperparameters, in percent."""
  return 100 * search.test_of_best


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


def format_list(values: Sequence[float]) -> str:
  """Format numbers with commas between them."""
  return ", ".join(f"{value:g}" for value in values)


def rises_steadily(means: Sequence[float]) -> bool:
  """Return True if every number is higher than the one before."""
  return bool(np.all(np.diff(means) > 0))
