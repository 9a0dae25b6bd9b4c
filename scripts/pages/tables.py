"""Lines of Markdown that are made from measurements."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sam_jax.reports import markdown
from scripts.benchmark import methods, report
from scripts.pages.measurements import Measurement

Render = Callable[[Sequence[Measurement]], list[str]]
Row = Mapping[str, Any]


def table(
  columns: Mapping[str, str],
  where: Callable[[Row], bool] = lambda row: True,
  text_columns: int = 1,
) -> Render:
  """Return a function that makes a table of the rows of all files.

  Args:
    columns: Keys of rows, or of facts about all of them, by the titles of
      their columns.
    where: Chooses rows.
    text_columns: Leading columns that are no numbers.
  """

  def render(found: Sequence[Measurement]) -> list[str]:
    rows = [
      {**each.made, **each.facts, **row} for each in found for row in each.rows
    ]
    cells = [
      [report.show(row.get(key)) for key in columns.values()]
      for row in rows
      if where(row)
    ]
    lines = markdown.table(list(columns), cells, text_columns)
    return [*lines, "", *sources(found)]

  return render


def sources(found: Sequence[Measurement]) -> list[str]:
  """Return lines that say which commands measured, when and where."""
  commands: dict[str, list[str]] = {}
  for each in found:
    commands.setdefault(each.circumstances, []).append(each.command)
  return [
    f"- {circumstances}: {', '.join(group)}."
    for circumstances, group in commands.items()
  ]


def steps(found: Sequence[Measurement]) -> list[str]:
  """Return the table of steps of SAM and optax over those of SGD."""
  header = (
    "network, batch",
    "SAM",
    "optax, opaque",
    "optax, transparent",
    "bare loop",
    "copies more",
    "of opaque",
    "of peak",
    "compile s",
    "cached s",
  )
  rows = []
  for each in found:
    by_step: dict[str, Row] = {row["step"]: row for row in each.rows}
    sam, opaque = by_step["SAM"], by_step["optax opaque"]
    values = [
      *(
        by_step.get(name, {}).get("over SGD")
        for name in ("SAM", "optax opaque", "optax transparent", "bare optax")
      ),
      sam["copies over SGD"],
      opaque["copies over SGD"],
      sam["of peak"],
      sam["compile s"],
      sam["cached s"],
    ]
    name = f"{each.facts['model']}, {each.facts['batch']}"
    rows.append([name, *map(report.show, values)])
  return [*markdown.table(header, rows, 1), "", *sources(found)]


def comparison_of_methods(found: Sequence[Measurement]) -> list[str]:
  """Return the table of errors and costs of methods, by data set."""
  rows = [
    {"data": each.facts["dataset"], **row}
    for each in found
    for row in methods.table(each.rows)
  ]
  return [*report.tables(rows), "", *sources(found)]


def printed(
  pattern: str = "", first: int | None = None, *, with_sources: bool = True
) -> Render:
  """Return a function that shows what commands printed, as a block of code.

  Args:
    pattern: Regular expression that shown lines match somewhere.
    first: Number of shown lines, if not all.
    with_sources: Say below the block where it is from.
  """

  def render(found: Sequence[Measurement]) -> list[str]:
    lines = [line for each in found for line in each.output]
    shown = [line for line in lines if re.search(pattern, line)]
    block = ["```", *shown[:first], "```"]
    return [*block, "", *sources(found)] if with_sources else block

  return render


def plan_costs(found: Sequence[Measurement]) -> list[str]:
  """Return the table of what fits which slice of TPUs."""
  header = (
    "config",
    "slice",
    "on a device",
    "needs GiB",
    "of",
    "ms a step, at least",
    "hours, at least",
  )
  rows = []
  for each in found:
    for row in each.rows or [parse_plan(each)]:
      numbers = (row["needed_gib"], row["usable_gib"])
      rows.append(
        [
          row["config"],
          row["slice"],
          row["layout"],
          *(f"{number:.2f}" for number in numbers),
          report.show(row["step_ms"]),
          f"{row['hours']:.2f}",
        ]
      )
  return [*markdown.table(header, rows, 3), "", *sources(found)]


def parse_plan(plan: Measurement) -> dict[str, Any]:
  """Return the numbers that `sam_jax.plan` printed, by name."""
  text = "\n".join(plan.output)
  words = shlex.split(plan.made["command"])
  given = dict(
    word.removeprefix("--").split("=", 1) for word in words if "=" in word
  )
  config = given.pop("config").removeprefix("configs/")
  slice_name = given.pop("topology")
  title = re.search(r" = (\d+) a device, m = (\d+)", text)
  numbers = re.search(
    r"needs ([\d.]+) of ([\d.]+) GiB.* ([\d.,]+) ms a\s+step .*"
    r"at least ([\d.,]+) hours",
    text,
    re.DOTALL,
  )
  if not title or not numbers:
    raise ValueError(f"{plan.name}.json is no output of sam_jax.plan.")
  needed, usable, milliseconds, hours = (
    float(number.replace(",", "")) for number in numbers.groups()
  )
  return {
    "config": ", ".join([f"`{config}`", *given.values()]),
    "slice": slice_name,
    "layout": f"{title[1]} images, m = {title[2]}",
    "needed_gib": needed,
    "usable_gib": usable,
    "step_ms": milliseconds,
    "hours": hours,
  }


def costs_of_commands(found: Sequence[Measurement]) -> list[str]:
  """Return a table of the CPU seconds and the memory of commands."""
  header = ("command", "CPU seconds", "GiB of memory")
  rows = [
    [
      each.command,
      report.show(each.costs["cpu_seconds"]),
      report.show(each.costs.get("memory_gib")),
    ]
    for each in found
  ]
  circumstances = [f"- {each.circumstances}." for each in found]
  return [*markdown.table(header, rows, 1), "", *dict.fromkeys(circumstances)]
