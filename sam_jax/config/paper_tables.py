"""Numbers of the paper, and the runs that reproduce them."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sam_jax.config import files
from sam_jax.config.field_type import parse_option
from sam_jax.config.paper_numbers import TABLES, Table
from sam_jax.config.schema import (
  default_fields,
  experiment,
  field_of,
  flatten,
  update,
)


class Cell(NamedTuple):
  """A number of the paper.

  Attributes:
    table: Number of the table.
    name: Row and column.
    error: Test error in percent, as the paper prints it.
    top_5_error: Top-5 test error; "" if the paper has none.
    file: Config file, such as "cifar".
    recipes: Words and overrides of a config, such as
      "cifar10,sam,sam.ascent_steps=2". Usually there is one; if there are
      several, the paper reports the best result.
  """

  table: str
  name: str
  error: str
  top_5_error: str
  file: str
  recipes: tuple[str, ...]


def find_cell(fields: Mapping[str, Any]) -> Cell | None:
  """Return the number of the paper that a run reproduces, if there is one.

  Compare the words of the config. Other fields of the run may differ from the
  recipe, see `follows_recipe`. If a table varies a field that no word sets, the
  run must have the value of the cell.

  Args:
    fields: The config.json of a run.
  """
  file, _, words = fields.get("variant", "").partition(":")
  flat = {**default_fields(), **dict(flatten(fields))}
  for cell in cells():
    if cell.file != file:
      continue
    for recipe in cell.recipes:
      its_words, overrides = _split(recipe)
      is_best_of = len(cell.recipes) > 1
      if its_words == {*words.split(",")} and (
        is_best_of or all(flat.get(k) == v for k, v in overrides.items())
      ):
        return cell
  return None


def follows_recipe(fields: Mapping[str, Any], cell: Cell) -> bool:
  """Return True if a run has the config behind a number of the paper.

  Fields that do not change what is measured may differ, see
  `schema.experiment`.

  Args:
    fields: The config.json of a run.
    cell: The number.
  """
  run = _recipe(fields)
  return any(run == _built_recipe(cell.file, r) for r in cell.recipes)


@functools.cache
def cells() -> tuple[Cell, ...]:
  """Return all numbers of the tables."""
  return tuple(cell for table in TABLES for cell in _cells_of(table))


def _cells_of(table: Table) -> Iterator[Cell]:
  header, *rows = [
    [part.strip() for part in line.split("|")]
    for line in table.text.strip("\n").splitlines()
    if not line.startswith("#")  # a comment
  ]
  for row, *entries in rows:
    for column, entry in zip(header[1:], entries, strict=True):
      name = table.name.format(
        row=row.replace(",", ", "), column=column.replace(",", ", ")
      )
      words = ",".join(filter(None, [row, column, table.words]))
      error, _, top_5_error = entry.partition(" / ")
      yield Cell(
        table.number,
        name.replace("=", " "),
        error,
        top_5_error,
        table.file,
        tuple(f"{words},{each}" for each in _best_of(table, words)),
      )


def _best_of(table: Table, words: str) -> tuple[str, ...]:
  """Return the text to append to the words of a cell, for each recipe."""
  for word, additions in table.best_of.items():
    if word in words.split(","):
      return tuple(additions)
  return ("",)


@functools.cache
def _split(recipe: str) -> tuple[set[str], dict[str, Any]]:
  """Return the words and the overrides of a recipe."""
  parts = [part for part in recipe.split(",") if part]
  pairs = [part.split("=") for part in parts if "=" in part]
  words = {part for part in parts if "=" not in part}
  return words, {name: parse_option(text) for name, text in pairs}


@functools.cache
def _built_recipe(file: str, recipe: str) -> dict[str, Any]:
  """Build a config of this project; return the fields that decide a result."""
  words, overrides = _split(recipe)
  path = files.project_config(file)
  config = files.read_config(f"{path}:{','.join(sorted(words))}")
  update(config, overrides)
  return _recipe(json.loads(config.to_json_best_effort()))


def _recipe(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields that decide a result; missing ones have the default.

  A path becomes True or False: runs may read the same file from another place.
  """
  kept = experiment({**default_fields(), **dict(flatten(fields))})
  for name, value in kept.items():
    field = field_of(name)
    if field and field.is_path:
      kept[name] = bool(value)
  return kept
