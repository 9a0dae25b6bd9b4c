"""Trains and evaluates the networks of all studies, each once."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sam_jax.analysis.result_cache import ResultCache
from scripts.reproduce import training
from scripts.reproduce.splits import draw_splits
from scripts.reproduce.training import Method, Setting

LEARNING_RATES = (0.03, 0.1, 0.3)
RHOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclasses.dataclass(frozen=True)
class Grid:
  """Networks of one method: error rates of settings [G] and seeds [S]."""

  method: Method
  settings: list[Setting]
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray

  @property
  def best(self) -> int:
    """The setting of the lowest mean validation error."""
    return int(np.argmin(self.validation.mean(axis=1)))

  @property
  def setting(self) -> Setting:
    """The best setting."""
    return self.settings[self.best]

  @property
  def test_of_best(self) -> np.ndarray:
    """Test error rates [S] with the best setting."""
    return self.test[self.best]


class Laboratory:
  """Trains what the studies ask for, each network once.

  Attributes:
    num_seeds: Seeds of every setting.
    num_epochs: Length of a training.
    splits: Data of all seeds, a function of the rate of label noise.
    seconds: Processor time of each result when it was computed, by its key.
  """

  def __init__(self, cache: ResultCache, num_seeds: int, num_epochs: int):
    """Takes the size of the studies.

    Args:
      cache: Where results are kept.
      num_seeds: Seeds of every setting, which also draw the data.
      num_epochs: Length of a training.
    """
    self.num_seeds, self.num_epochs = num_seeds, num_epochs
    self.seconds = {}
    self._cache = cache
    self.splits = functools.cache(functools.partial(draw_splits, num_seeds))

  def method(self, **fields: Any) -> Method:
    """A method that trains for `num_epochs`."""
    return Method(**{"num_epochs": self.num_epochs, **fields})

  def grid(
    self, method: Method, settings: Sequence[Setting], noise_rate: float = 0.0
  ) -> Grid:
    """Trains and evaluates networks with noisy training labels."""
    key = {
      "method": repr(method),
      "settings": repr(list(settings)),
      "noise_rate": noise_rate,
    }

    def compute():
      splits = self.splits(noise_rate)
      params = training.train(method, settings, splits.train)
      return {
        name: training.error_rates(method.width, params, examples).tolist()
        for name, examples in splits._asdict().items()
      }

    found = self.get("grid", key, compute)
    errors = {name: np.array(values) for name, values in found.items()}
    return Grid(method, list(settings), **errors)

  def sgd(self, noise_rate: float = 0.0, longer: int = 1) -> Grid:
    """SGD with several learning rates, of which validation chooses."""
    method = self.method(
      uses_sam=False, num_epochs=longer * self.num_epochs, m=training.BATCH
    )
    settings = [Setting(learning_rate=rate) for rate in LEARNING_RATES]
    return self.grid(method, settings, noise_rate)

  def sam(
    self, rhos: Sequence[float] = RHOS, noise_rate: float = 0.0, **fields: Any
  ) -> Grid:
    """SAM with several rho, and the learning rate that is best for SGD."""
    rate = self.sgd(noise_rate).setting.learning_rate
    settings = [Setting(rho=rho, learning_rate=rate) for rho in rhos]
    return self.grid(self.method(**fields), settings, noise_rate)

  def get(
    self, name: str, key: dict[str, Any], compute: Callable[[], Any]
  ) -> Any:
    """A result, computed once; counts the time it took then."""
    key = {
      "result": name,
      **key,
      "num_seeds": self.num_seeds,
      "num_epochs": self.num_epochs,
    }

    def compute_timed():
      # Of processors: other programs on the machine don't count.
      started = time.process_time()
      result = compute()
      return {"result": result, "seconds": time.process_time() - started}

    found = self._cache.get(key, compute_timed)
    self.seconds[repr(key)] = found["seconds"]
    return found["result"]
