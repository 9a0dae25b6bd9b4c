"""Scalars of a run in Weights & Biases.

The package's environment variables choose the project, the entity and the mode,
such as WANDB_PROJECT and WANDB_MODE=offline.
"""

import os
import uuid
from collections.abc import Mapping

import wandb
from etils import epath

from sam_jax import paths
from sam_jax.runs.loggers import Hparams


class WandbRun:
  """A run of Weights & Biases.

  Attributes:
    run_id: Its id.
  """

  def __init__(self, workdir: epath.Path, run_id: str | None):
    """Start a run, or continue one.

    Args:
      workdir: Directory of the run, whose last part is its name. If it is
        local, wandb/ in it holds the files of the package.
      run_id: Id of the run to continue; None starts one.
    """
    self.run_id = run_id or uuid.uuid4().hex
    self._run = wandb.init(
      project=os.environ.get("WANDB_PROJECT", "sam_jax"),
      id=self.run_id,
      name=workdir.name,
      dir=None if paths.is_remote(workdir) else os.fspath(workdir),
      resume="allow",
      reinit="create_new",  # runs that train together
      settings=wandb.Settings(console="off", silent=True),
    )
    # Its own step only rises: a resumed run could not add to its last one.
    self._run.define_metric("step", hidden=True)
    self._run.define_metric("*", step_metric="step")

  def write_hparams(self, hparams: Hparams) -> None:
    """Write the config of the run."""
    self._run.config.update(dict(hparams), allow_val_change=True)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Write a line of the history."""
    self._run.log({"step": step, **scalars})

  def close(self, is_finished: bool) -> None:
    """Upload everything; a run that may resume counts as failed."""
    self._run.finish(exit_code=0 if is_finished else 1)
