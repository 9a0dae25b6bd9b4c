"""Write measurements as Markdown tables or as JSON."""

import itertools
import json
import os
from typing import Any

import jax

from sam_jax.reports import markdown
from scripts.benchmark.timing import Spread


def describe_machine() -> dict[str, Any]:
  """Return the device, the number of CPU cores, and the version of JAX."""
  return {
    "device": jax.devices()[0].device_kind,
    "cpu_cores": len(os.sched_getaffinity(0)),
    "jax": jax.__version__,
  }


def as_json(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
  """Return one JSON object, in which the numbers of a spread have names."""
  rows = [{k: _plain(v) for k, v in row.items()} for row in rows]
  return json.dumps({"facts": facts, "rows": rows}, default=str)


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
  """Format a value, or a median with quartiles, with three digits."""
  if value is None:
    return ""
  if isinstance(value, Spread):
    median, low, high = map(show, value)
    return f"{median} ({low} to {high})"
  if isinstance(value, float):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
  return str(value)


def _plain(value: Any) -> Any:
  return value._asdict() if isinstance(value, Spread) else value


def _show_list(value: Any) -> str:
  return "/".join(map(str, value)) if isinstance(value, list) else str(value)
