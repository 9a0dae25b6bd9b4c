"""Networks of random weights that look like trained runs."""

import jax
import numpy as np
from etils import epath

from sam_jax.analysis import trained_run
from sam_jax.analysis.trained_run import TrainedRun
from sam_jax.config.schema import default_config
from sam_jax.training import build


def random_run(model, dataset, workdir="run", seed=0):
  """Return a network with random weights and statistics as a run."""
  config = default_config()
  config.model.name, config.dataset.name = model, dataset
  config.dataset.image_size = 40 if dataset == "imagenet2012" else None
  spec = build.dataset_spec(config)
  parts = build.parts(config, spec, 1, num_devices=1)
  state = trained_run.empty_state(parts, spec)
  random = np.random.default_rng(seed)
  # The logits of a network at initialization hardly depend on the images.
  variables = jax.tree.map(
    lambda x: random.uniform(0.1, 0.5, x.shape).astype(np.float32),
    state.eval_variables(),
  )
  return TrainedRun(
    epath.Path(workdir), config, 7, spec, parts.model, variables
  )
