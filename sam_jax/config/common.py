"""Sweeps, grids and optimizer settings that configs of the paper share."""

from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from sam_jax.config.variants import Variants

# Values of rho that the paper tries for every model, on held-out training data
# (section 3.1).
RHO_GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

# Values of Mixup's alpha that the paper tries. It reports the best one for each
# level of label noise (section 4.2).
MIXUP_ALPHAS = (1.0, 8.0, 16.0, 32.0)

# Runs behind each number of the paper.
SEEDS = range(5)


def set_descent(
  config: ConfigDict, learning_rate: float, weight_decay: float
) -> None:
  """Set the optimizer of the paper's training from scratch.

  Args:
    config: Config to change.
    learning_rate: Learning rate at its peak.
    weight_decay: Coefficient of the L2 term of the loss.
  """
  config.optimizer.learning_rate = learning_rate
  config.optimizer.weight_decay = weight_decay
  config.optimizer.schedule = "cosine"
  config.optimizer.momentum = 0.9
  # The paper says "momentum" and does not mention clipping; the official code
  # uses Nesterov's momentum and clips the gradients of SGD, too.
  config.optimizer.nesterov = True
  config.optimizer.gradient_clipping = 5.0


def table_runs(
  variants: Variants, variant: str, seeds: Sequence[int] = SEEDS
) -> Iterator[dict[str, Any]]:
  """Yield the runs of a table as overrides of its config.

  Args:
    variants: Words of the config.
    variant: Words that narrow the table; every combination of the others is
      trained.
    seeds: Seeds of each variant.

  Yields:
    Every seed of every variant. A baseline is also trained for twice the epochs
    if the config has a word for that. With the word "tune": the grid of rho
    instead, and each variant without SAM once.
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
  """Return a variant and, for a baseline, the one with twice the epochs.

  A step of SAM costs two of SGD: the paper gives SGD the time, too, and reports
  the better of both.
  """
  has_choice = "double_epochs" in variants.words
  if not has_choice or {"sam", "double_epochs"} & {*words.split(",")}:
    return [words]
  return [words, *variants.expand(f"{words},double_epochs")]
