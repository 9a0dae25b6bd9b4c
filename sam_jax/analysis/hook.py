"""Sharpness and curvature while a network trains, on a few fixed examples.

Every process measures on its own devices, without a collective, and process 0
logs what it found: nobody waits long for another one. The state of training is
only read, so a run has the same weights with these measurements as without.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from sam_jax.analysis.hessian import probe_hessian
from sam_jax.analysis.objective import (
  Objective,
  first_examples,
  network_losses,
)
from sam_jax.analysis.sharpness import m_sharpness_fn, sharpness
from sam_jax.config.schema import ConfigError
from sam_jax.training.build import preprocess_fn
from sam_jax.training.step import Recipe


class AnalysisDuringTraining:
  """Measures what `config.analysis` asks for."""

  def __init__(self, config: ConfigDict, recipe: Recipe, dataset: Any):
    """Takes the first training examples; nothing is compiled yet.

    Args:
      config: Config of the run.
      recipe: Its recipe.
      dataset: Its data set, this host's view.

    Raises:
      ConfigError: The data set has fewer than m examples.
    """
    self._config, self._seed = config.analysis, config.seed
    examples = first_examples(dataset, "train", self._config.num_examples)
    losses = network_losses(recipe.model, preprocess_fn(dataset.spec))
    batch_size = config.batch_size // jax.process_count()
    self._objective = Objective(losses, examples, batch_size)
    try:
      self._m_sharpness = m_sharpness_fn(losses, examples, self._config.m)
    except ValueError as error:
      raise ConfigError(f"config.analysis.m: {error}") from error

  def measure(self, variables: dict[str, Any]) -> dict[str, float]:
    """Looks at a network in evaluation mode.

    Args:
      variables: `params` and `batch_stats`, the same on all devices.

    Returns:
      `loss`; `sharpness` of all examples and `m_sharpness`, the mean over
      groups of m, in nats; `lambda_max`, the largest eigenvalue of the
      Hessian, or a little less.
    """
    # A copy: the next step of training takes the variables' buffers.
    variables = self._objective.put(jax.device_get(variables))
    rho = self._config.rho
    together = sharpness(self._objective.value_and_grad, variables, rho)
    probe = probe_hessian(
      self._objective, variables, self._config.lanczos_steps, self._seed
    )
    return {
      "loss": together.loss,
      "sharpness": together.sharpness,
      "m_sharpness": self._m_sharpness(variables, rho).sharpness,
      "lambda_max": float(probe.ritz_values[0]),
    }
