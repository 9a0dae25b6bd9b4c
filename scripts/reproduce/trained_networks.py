"""The networks of all experiments, each trained and evaluated once."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sam_jax.analysis.result_cache import ResultCache
from scripts.reproduce import small_networks
from scripts.reproduce.digits import Splits, draw_splits
from scripts.reproduce.small_networks import Algorithm, Hyperparameters

LEARNING_RATES = (0.03, 0.1, 0.3)
RHOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclasses.dataclass(frozen=True)
class GridSearch:
  """Error rates [G, S] of an algorithm with G hyperparameters and S seeds.

  Attributes:
    algorithm: The algorithm.
    grid: The G hyperparameters.
    train: Error rates on training examples.
    validation: Error rates on validation examples, which choose the best.
    test: Error rates on test examples.
  """

  algorithm: Algorithm
  grid: list[Hyperparameters]
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray

  @property
  def best_index(self) -> int:
    """The index of the lowest mean validation error."""
    return int(np.argmin(self.validation.mean(axis=1)))

  @property
  def best(self) -> Hyperparameters:
    """The hyperparameters of the lowest mean validation error."""
    return self.grid[self.best_index]

  @property
  def test_of_best(self) -> np.ndarray:
    """Test error rates [S] with the best hyperparameters."""
    return self.test[self.best_index]


class TrainedNetworks:
  """Trains the networks that experiments ask for, each once.

  Attributes:
    num_seeds: Number of seeds S, which also draw the data.
    num_epochs: Length of a training.
    splits: Rate of label noise -> data of all seeds.
    seconds: Processor time of each result when it was computed, by its key.
  """

  def __init__(self, results: ResultCache, num_seeds: int, num_epochs: int):
    """Set the size of the experiments.

    Args:
      results: The file that keeps results.
      num_seeds: Number of seeds.
      num_epochs: Length of a training.
    """
    self.num_seeds, self.num_epochs = num_seeds, num_epochs
    self.seconds: dict[str, float] = {}
    self._results = results
    self.splits: Callable[[float], Splits] = functools.cache(
      functools.partial(draw_splits, num_seeds)
    )

  def algorithm(self, **fields: Any) -> Algorithm:
    """Return an algorithm that trains for `num_epochs`."""
    return Algorithm(**{"num_epochs": self.num_epochs, **fields})

  def search(
    self,
    algorithm: Algorithm,
    grid: Sequence[Hyperparameters],
    noise_rate: float = 0.0,
  ) -> GridSearch:
    """Train and evaluate networks with noisy training labels."""
    key = {
      "algorithm": repr(algorithm),
      "grid": repr(list(grid)),
      "noise_rate": noise_rate,
    }

    def compute():
      splits = self.splits(noise_rate)
      params = small_networks.train(algorithm, grid, splits.train)
      return {
        name: small_networks.error_rates(
          algorithm.width, params, examples
        ).tolist()
        for name, examples in splits._asdict().items()
      }

    found = self.compute_once("grid search", key, compute)
    errors = {name: np.array(values) for name, values in found.items()}
    return GridSearch(algorithm, list(grid), **errors)

  def sgd(self, noise_rate: float = 0.0, longer: int = 1) -> GridSearch:
    """Return SGD with several learning rates; validation chooses the best.

    Args:
      noise_rate: Rate of label noise.
      longer: Factor of the length of training.
    """
    algorithm = self.algorithm(
      uses_sam=False,
      num_epochs=longer * self.num_epochs,
      m=small_networks.BATCH,
    )
    grid = [Hyperparameters(learning_rate=rate) for rate in LEARNING_RATES]
    return self.search(algorithm, grid, noise_rate)

  def sam(
    self, rhos: Sequence[float] = RHOS, noise_rate: float = 0.0, **fields: Any
  ) -> GridSearch:
    """Return SAM with several rho and the learning rate that is SGD's best.

    Args:
      rhos: Values of rho; validation chooses the best.
      noise_rate: Rate of label noise.
      **fields: Other fields of the algorithm.
    """
    rate = self.sgd(noise_rate).best.learning_rate
    grid = [Hyperparameters(rho=rho, learning_rate=rate) for rho in rhos]
    return self.search(self.algorithm(**fields), grid, noise_rate)

  def compute_once(
    self, name: str, key: dict[str, Any], compute: Callable[[], Any]
  ) -> Any:
    """Return a result, computed now or earlier, and note the time it took."""
    key = {
      "result": name,
      **key,
      "num_seeds": self.num_seeds,
      "num_epochs": self.num_epochs,
    }

    def compute_timed():
      # Processor time: other programs on the machine do not count.
      started = time.process_time()
      result = compute()
      return {"result": result, "seconds": time.process_time() - started}

    found = self._results.get(key, compute_timed)
    self.seconds[repr(key)] = found["seconds"]
    return found["result"]
