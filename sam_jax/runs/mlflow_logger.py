"""Scalars of a run in MLflow.

The package's environment variables choose the server and the experiment:
MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME.
"""

import os
import re
import time
from collections.abc import Mapping

from etils import epath
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from sam_jax.runs.loggers import Hparams

# Parameters of one request, at most.
_PARAMS = 100


class MlflowRun:
  """A run of MLflow.

  Attributes:
    run_id: Its id.
  """

  def __init__(self, workdir: epath.Path, run_id: str | None):
    """Start a run, or continue one.

    Args:
      workdir: Directory of the run, whose last part is its name.
      run_id: Id of the run to continue; None starts one.
    """
    self._client = MlflowClient()
    if run_id is None:
      experiment = _experiment_id(self._client)
      run = self._client.create_run(experiment, run_name=workdir.name)
      run_id = run.info.run_id
    else:
      self._client.set_terminated(run_id, "RUNNING")
    self.run_id = run_id

  def write_hparams(self, hparams: Hparams) -> None:
    """Write the parameters of the run."""
    params = [Param(key, str(value)) for key, value in hparams.items()]
    for start in range(0, len(params), _PARAMS):
      self._client.log_batch(
        self.run_id, params=params[start : start + _PARAMS]
      )

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Write metrics; "_" replaces letters that names can't have."""
    now = int(1000 * time.time())
    metrics = [
      Metric(re.sub(r"[^\w\-. /:]", "_", name), value, now, step)
      for name, value in scalars.items()
    ]
    self._client.log_batch(self.run_id, metrics=metrics)

  def close(self, is_finished: bool) -> None:
    """Set the status of the run: finished, or killed if it may resume."""
    status = "FINISHED" if is_finished else "KILLED"
    self._client.set_terminated(self.run_id, status)


def _experiment_id(client: MlflowClient) -> str:
  name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sam_jax")
  found = client.get_experiment_by_name(name)
  return found.experiment_id if found else client.create_experiment(name)
