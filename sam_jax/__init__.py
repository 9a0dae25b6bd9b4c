"""Sharpness-Aware Minimization (Foret et al., ICLR 2021) in JAX.

The transformation is `sharpness_aware`, the drop-in optimizer around it `sam`;
`python -m sam_jax.train` runs the paper's experiments.
"""

import os
import typing

from sam_jax import extras
from sam_jax.m_sharpness import m_sharpness_layout
from sam_jax.models import create_model
from sam_jax.sam import mean_across, sam, sharpness_aware

extras.check_command()
if typing.TYPE_CHECKING:
  from sam_jax.analysis.trained_run import TrainedRun

__all__ = [
  "create_model",
  "load_run",
  "m_sharpness_layout",
  "mean_across",
  "sam",
  "sharpness_aware",
]
__version__ = "0.1.0"


def load_run(
  workdir: str | os.PathLike[str],
  step: int | None = None,
  *,
  use_ema: bool = True,
) -> "TrainedRun":
  """Load the network of a run, its preprocessing and its class names.

  It needs the packages of `sam-jax[train]`, and imports them when it is called.
  The arguments are those of `sam_jax.analysis.trained_run.load_run`.

  Args:
    workdir: Directory that `sam_jax.train` wrote, local or gs://.
    step: Step of a checkpoint that was kept; None for the newest.
    use_ema: Take the running averages of the parameters if the run has them.

  Returns:
    The run. `run.predict(images)` returns probabilities [N, classes] of uint8
    images [N, H, W, C] of any size; `run.class_names` names the classes.

  Raises:
    ValueError: There is no such run or checkpoint; one line says why.
    OSError: The disk or the network fails.
  """
  from sam_jax.analysis import trained_run

  return trained_run.load_run(workdir, step, use_ema=use_ema)
