"""The state that training starts or resumes with."""

import logging

import jax
from ml_collections import ConfigDict

from sam_jax.config.schema import ConfigError
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.models.pretrained import load_pretrained
from sam_jax.runs import trained_weights
from sam_jax.runs.checkpoints import Checkpoints
from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts, create_state

logger = logging.getLogger(__name__)


def initial_state(
  config: ConfigDict,
  spec: DatasetSpec,
  parts: Parts,
  checkpoints: Checkpoints,
) -> TrainState:
  """Return the state of the newest checkpoint, or a fresh one.

  Raises:
    ConfigError: The pretrained parameters are not those of the network, or
      can't be read.
    WorkdirLostError: The disk or the network fails.
  """
  state = create_state(parts, spec.image_shape, config.seed)
  restored = checkpoints.restore_latest(state)
  if restored is not None:
    logger.info("Resuming from the checkpoint at step %d.", restored.step)
    return restored
  if config.pretrained:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    checkpoint = trained_weights.read(config.pretrained)
    try:
      variables, report = load_pretrained(checkpoint, variables)
    except ValueError as error:
      raise ConfigError(f"config.pretrained: {error}") from error
    logger.info("%s", report)
    state = state.with_variables(variables)
  logger.info(
    "%s on %s: %s parameters, %d epochs in batches of %d, m = %s, on %d %s"
    " device(s). Compiling the first step.",
    config.model.name,
    config.dataset.name,
    f"{sum(w.size for w in jax.tree.leaves(state.params)):,}",
    config.num_epochs,
    config.batch_size,
    config.sam.m,
    jax.device_count(),
    jax.default_backend(),
  )
  return state
