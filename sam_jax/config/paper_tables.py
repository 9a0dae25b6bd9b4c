"""Which number of the paper a config stands for."""

import functools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.schema import default_config, flatten
from sam_jax.config.variants import Variants

# Tried by the paper for every model, on training data held out (its
# section 3.1).
RHO_GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

# Runs behind each number of the paper.
SEEDS = range(5)

# Fields that don't make a run another experiment.
_OTHER_FIELDS = frozenset(
  {
    "paper",
    "seed",
    "eval_batch_size",
    "log_every_steps",
    "eval_every_epochs",
    "eval_on_train",
    "checkpoint_every_epochs",
    "keep_checkpoints_at_epochs",
    "compilation_cache_dir",
    "profile",
    "analysis",
  }
)

# Files: whether there is one counts, not where it lies.
_PLACES = ("pretrained", "dataset.label_file")


def table_runs(
  variants: Variants, variant: str, seeds: Sequence[int] = SEEDS
) -> Iterator[dict[str, Any]]:
  """Yields the runs of a table, as overrides of its config.

  Args:
    variants: The words of the config.
    variant: Words that narrow the table; groups without a word run through
      theirs.
    seeds: Of every variant.

  Yields:
    Every seed of every variant, baselines with twice the epochs too where the
    config has a word for that; with the word "tune" instead the grid of rho,
    and the variants without SAM once.
  """
  for words in variants.expand(variant):
    given = words.split(",")
    if "tune" not in given:
      for each in _with_double_epochs(variants, words):
        yield from ({"variant": each, "seed": seed} for seed in seeds)
    elif "sam" in given:
      yield from ({"variant": words, "sam.rho": rho} for rho in RHO_GRID)
    else:
      yield {"variant": words}


def _with_double_epochs(variants: Variants, words: str) -> list[str]:
  """A variant, and with it a baseline's of twice the epochs.

  A step of SAM costs two of SGD: the paper gives SGD the time too, and reports
  the better of both.
  """
  given = words.split(",")
  if "double_epochs" not in variants.words or "sam" in given:
    return [words]
  if "double_epochs" in given:
    return [words]
  return [words, *variants.expand(f"{words},double_epochs")]


def name_cell(
  config: ConfigDict,
  table: str,
  cell: str,
  error: str | Mapping[float, str],
  top_5_error: str = "",
  *,
  along: str = "",
  values: Sequence[float] = (),
) -> None:
  """Notes in a finished config which number of the paper it stands for.

  Args:
    config: The config, all its other fields set.
    table: Number of the table.
    cell: Row and column.
    error: Test error in percent, "mean ± half-width of the 95% interval"; or
      one for each value of the field `along`.
    top_5_error: Likewise.
    along: Field that varies within the paper's recipe.
    values: Its values; the paper reports the best of them. Not needed where
      each has an error of its own.
  """
  note = config.paper
  note.table, note.cell, note.top_5_error = table, cell, top_5_error
  if isinstance(error, str):
    note.error = error
  else:
    note.along, values = along, tuple(error)
    note.error = "; ".join(f"{k:g}: {text}" for k, text in error.items())
  fields = dict(flatten(json.loads(config.to_json_best_effort())))
  recipes = [fields | {along: value} for value in values] or [fields]
  note.recipe = " ".join(dict.fromkeys(map(_digest, recipes)))


def papers_number(fields: Mapping[str, Any]) -> dict[str, str]:
  """The number of the paper that a run stands for.

  Args:
    fields: The config.json of a run.

  Returns:
    "table", "cell", "error" and "top_5_error"; empty strings if there is none.
  """
  note = {"table": "", "cell": "", "error": "", "top_5_error": ""}
  note |= fields.get("paper") or {}
  along = note.get("along")
  if along:
    value = f"{dict(flatten(fields))[along]:g}"
    numbers = dict(text.split(": ") for text in note["error"].split("; "))
    note["error"] = numbers.get(value, "")
    note["cell"] += f", {along} {value}"
  return note


def is_papers_recipe(fields: Mapping[str, Any]) -> bool:
  """Whether a run still has the recipe of the cell that its config names.

  Args:
    fields: The config.json of a run.
  """
  return _digest(dict(flatten(fields))) in fields["paper"]["recipe"].split()


def _digest(fields: Mapping[str, Any]) -> str:
  """Eight hexadecimal digits of the fields that decide a result.

  Defaults are left out: a field that a later version adds, and that its default
  switches off, changes no recipe.
  """
  kept = {}
  for name, value in fields.items():
    is_other = name.partition(".")[0] in _OTHER_FIELDS
    if is_other or name == "dataset.data_dir" or value == _defaults()[name]:
      continue
    kept[name] = True if name in _PLACES else value
  text = json.dumps(kept, sort_keys=True)
  return f"{zlib.crc32(text.encode()):08x}"


@functools.cache
def _defaults() -> dict[str, Any]:
  return dict(flatten(default_config().to_dict()))
