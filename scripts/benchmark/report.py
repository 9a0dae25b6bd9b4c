"""What was measured, for people and for programs."""

import json
import os
from collections.abc import Iterable
from typing import Any

import jax

from scripts.benchmark.timing import Spread


def describe_machine() -> dict[str, Any]:
  """Names the machine and the version of JAX."""
  return {
    "device": jax.devices()[0].device_kind,
    "cpu_cores": len(os.sched_getaffinity(0)),
    "jax": jax.__version__,
  }


def as_json(what: dict[str, Any], rows: list[dict[str, Any]]) -> str:
  """One JSON object; spreads have names for their numbers."""
  rows = [{k: _plain(v) for k, v in row.items()} for row in rows]
  return json.dumps({"what": what, "rows": rows}, default=str)


def caption(what: dict[str, Any]) -> str:
  """One line about what was measured."""
  facts = [f"{name} {_show_list(value)}" for name, value in what.items()]
  return ", ".join(facts)


def table(rows: list[dict[str, Any]]) -> Iterable[str]:
  """Lines of Markdown tables; rows with other columns start another one."""
  columns = None
  for row in rows:
    if list(row) != columns:
      if columns:
        yield ""
      columns = list(row)
      yield f"| {' | '.join(columns)} |"
      yield f"|{'---|' * len(columns)}"
    yield f"| {' | '.join(map(show, row.values()))} |"


def show(value: Any) -> str:
  """A value, or a median with quartiles, to three digits."""
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
