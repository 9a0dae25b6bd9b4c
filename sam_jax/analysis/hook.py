"""Sharpness and curvature during training, on a few fixed examples.

Every process measures on its own devices, without collectives, and process 0
logs its results: no process waits long for another one. The measurements only
read the state of training: a run has the same weights with and without them.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sam_jax.analysis.hessian import probe_hessian
from sam_jax.analysis.measure_names import parse_measures
from sam_jax.analysis.measured_network import MeasuredNetwork
from sam_jax.analysis.objective import first_examples
from sam_jax.analysis.rounding import mantissa_bits, perturbation_seen
from sam_jax.analysis.sharpness import sharpness_fn
from sam_jax.config.schema import ConfigError
from sam_jax.training.build import preprocess_fn
from sam_jax.training.hooks import LogMetrics, RunContext
from sam_jax.training.losses import LOSSES
from sam_jax.training.state import TrainState


class AnalysisHook:
  """Measures and logs the sharpness that `config.analysis` describes."""

  def __init__(self, run: RunContext, log: LogMetrics):
    """Take the first training examples; nothing is compiled yet.

    Args:
      run: The run.
      log: Its log lines.

    Raises:
      ConfigError: The data set has too few examples for a measure.
    """
    self._run, self._log = run, log
    self._config = run.config.analysis
    spec = run.dataset.spec
    examples = _as_many_on_all_hosts(
      first_examples(run.dataset, "train", self._config.num_examples)
    )
    batch_size = run.config.batch_size // jax.process_count()
    self._network = MeasuredNetwork(
      run.parts.model,
      preprocess_fn(spec),
      examples,
      batch_size,
      LOSSES[run.config.loss],
    )
    self._objective = self._network.objective()
    self._sharpness = sharpness_fn(self._objective.value_and_grad)
    try:
      self._m_sharpness = self._network.one_step(self._config.m)
    except ValueError as error:
      raise ConfigError(f"config.analysis.m: {error}") from error
    self._measures = parse_measures(self._config.measures)
    try:
      for measure in self._measures:
        measure.check(len(examples["label"]))
    except ValueError as error:
      raise ConfigError(f"config.analysis.measures: {error}") from error

  def __call__(
    self, step: int, state: TrainState, metrics: Any, is_last: bool
  ) -> None:
    """Measure every few epochs."""
    del metrics
    run = self._run
    is_due = run.is_due(step, self._config.every_epochs, is_last)
    if is_due and not run.is_logged(step, "analysis"):
      with self._log.paused():
        values = self.measure(state.eval_variables())
        run.write(step, "analysis", values)

  def measure(self, variables: dict[str, Any]) -> dict[str, float]:
    """Measure a network in evaluation mode.

    Args:
      variables: `params` and `batch_stats`, the same on all devices.

    Returns:
      `loss`; `sharpness` of all examples and `m_sharpness`, the mean over
      groups of m, in nats; `lambda_max`, an estimate of the largest eigenvalue
      of the Hessian from below; `perturbation_seen`, the cosine between the
      perturbation of all examples and what training sees of one of that radius;
      and `config.analysis.measures` by their texts.
    """
    # Copy: the next training step donates the buffers of the variables.
    variables = self._objective.put(jax.device_get(variables))
    rho = self._config.rho
    check_stop = self._run.check_stop
    together = self._sharpness(variables, rho)
    check_stop()
    _, gradient = self._objective.value_and_grad(variables)
    seen = perturbation_seen(
      *(variables["params"], gradient["params"], rho),
      bits=mantissa_bits(self._run.config),
    )
    check_stop()
    probe = probe_hessian(
      self._objective,
      variables,
      self._config.lanczos_steps,
      self._run.config.seed,
      on_step=lambda _: check_stop(),
    )
    of_groups = self._m_sharpness(
      variables, rho, on_groups=lambda _: check_stop()
    )
    further = {
      measure.text: measure(
        self._network,
        variables,
        self._run.config.seed,
        lambda _: check_stop(),
      ).value
      for measure in self._measures
    }
    return {
      "loss": together.loss,
      "sharpness": together.value,
      "m_sharpness": of_groups.value,
      "lambda_max": float(probe.ritz_values[0]),
      "perturbation_seen": float(seen),
      **further,
    }


def _as_many_on_all_hosts(
  examples: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Cut examples of this host to the number that every host has.

  Hosts may have more or less of a streamed split; `RunContext.check_stop` must
  be called as often on all of them.
  """
  count = np.int32(len(examples["label"]))
  counts = multihost_utils.process_allgather(count)
  return {name: x[: np.min(counts)] for name, x in examples.items()}
