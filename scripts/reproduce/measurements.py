"""Curvature and m-sharpness of trained networks, by the analyses of sam_jax."""

from typing import Any

from etils import epath

from sam_jax.analysis import compare, hessian, measure
from sam_jax.analysis.measure import MeasuredRun
from sam_jax.analysis.run_names import RunName
from sam_jax.runs import workdir as workdir_lib
from scripts.reproduce.transfer import steps_per_epoch

LANCZOS_STEPS = 25
EXAMPLES = 512  # the first of the training part
RHO = 0.05
MS = (1, 8, 64, 512)


def curvature(workdir: epath.Path, epoch: int | None) -> dict[str, Any]:
  """Return the Hessian's five largest eigenvalues, in nats."""
  (probe,) = measure.measure_spectrum(
    _load(workdir, epoch, "hessian"), 1, LANCZOS_STEPS, seed=0
  )
  top = hessian.top_eigenvalues([probe], 5)
  return {"eigenvalues": [each.value for each in top]}


def m_sharpness(workdir: epath.Path, epoch: int | None) -> dict[str, Any]:
  """Return the m-sharpness with rho = 0.05 by m, in nats."""
  run = _load(workdir, epoch, "sharpness")
  found = measure.measure_sharpness(run, [RHO], MS)
  return {str(m): float(found[f"m = {m}"][0]) for m in MS}


def _load(workdir: epath.Path, epoch: int | None, study: str) -> MeasuredRun:
  step = None
  if epoch is not None:
    fields = workdir_lib.read_config(workdir) or {}
    step = epoch * steps_per_epoch(fields)
  (run,) = compare.load_runs(
    [RunName(str(workdir), step)], study, "train", EXAMPLES, batch_size=128
  )
  return run
