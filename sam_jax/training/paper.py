"""Which number of the paper a config stands for."""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from sam_jax.training.variants import Variants

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


def table_runs(variants: Variants, variant: str) -> Iterator[dict[str, Any]]:
  """Yields the runs of a table, as overrides of its config.

  Args:
    variants: The words of the config.
    variant: Words that narrow the table; groups without a word run through
      theirs.

  Yields:
    Five seeds of every variant; with the word "tune" instead the grid of rho,
    and the variants without SAM once.
  """
  for words in variants.expand(variant):
    given = words.split(",")
    if "tune" not in given:
      yield from ({"variant": words, "seed": seed} for seed in SEEDS)
    elif "sam" in given:
      yield from ({"variant": words, "sam.rho": rho} for rho in RHO_GRID)
    else:
      yield {"variant": words}


def name_cell(
  config: ConfigDict,
  table: str,
  cell: str,
  error: str,
  top_5_error: str = "",
) -> None:
  """Notes in a finished config which number of the paper it stands for.

  Args:
    config: The config, all its other fields set.
    table: Number of the table.
    cell: Row and column.
    error: Test error in percent, "mean ± half-width of the 95% interval".
    top_5_error: Likewise.
  """
  config.paper.table, config.paper.cell = table, cell
  config.paper.error, config.paper.top_5_error = error, top_5_error
  fields = json.loads(config.to_json_best_effort())
  config.paper.recipe = recipe_digest(fields)


def is_papers_recipe(fields: Mapping[str, Any]) -> bool:
  """Whether a run still has the recipe of the cell that its config names.

  Args:
    fields: The config.json of a run.
  """
  return fields["paper"]["recipe"] == recipe_digest(fields)


def recipe_digest(fields: Mapping[str, Any]) -> str:
  """Returns eight hexadecimal digits of the fields that decide a result.

  Args:
    fields: A config, as in config.json.
  """
  kept = {k: v for k, v in fields.items() if k not in _OTHER_FIELDS}
  kept["dataset"] = {
    k: v for k, v in kept["dataset"].items() if k != "data_dir"
  }
  text = json.dumps(kept, sort_keys=True)
  return f"{zlib.crc32(text.encode()):08x}"
