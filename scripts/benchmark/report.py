"""Write measurements as Markdown tables and as JSON."""

import itertools
from typing import Any

import jax

from sam_jax.reports import markdown
from scripts.benchmark.timing import Spread


def device_kind() -> str:
  """Return the name of the kind of device that programs ran on."""
  return jax.devices()[0].device_kind


def caption(facts: dict[str, Any]) -> str:
  """Return the facts about a measurement as one line."""
  return ", ".join(f"{k} {_show_list(v)}" for k, v in facts.items())


def tables(rows: list[dict[str, Any]]) -> list[str]:
  """Return lines of Markdown; rows with other columns start another table."""
  lines: list[str] = []
  for columns, group in itertools.groupby(rows, key=tuple):
    cells = [[show(value) for value in row.values()] for row in group]
    lines += [*([""] if lines else []), *markdown.table(columns, cells, 1)]
  return lines


def show(value: Any) -> str:
  """Format a value, or a median with quartiles, with two or three digits.

  Args:
    value: The value; a spread may have been read from JSON.
  """
  if value is None:
    return ""
  if isinstance(value, dict):
    value = Spread(**value)
  if isinstance(value, Spread):
    median, low, high = map(show, value)
    return f"{median} ({low} to {high})"
  if not isinstance(value, float):
    return str(value)
  if 0.1 <= abs(value) < 10:  # most are ratios: 2.00, not 2
    return f"{value:.2f}"
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plain(row: dict[str, Any]) -> dict[str, Any]:
  """Return a row for JSON, in which the numbers of a spread have names."""
  return {
    name: value._asdict() if isinstance(value, Spread) else value
    for name, value in row.items()
  }


def _show_list(value: Any) -> str:
  return "/".join(map(str, value)) if isinstance(value, list) else str(value)
