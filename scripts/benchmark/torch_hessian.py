"""The Hessian's largest eigenvalues by PyHessian, on the same network.

PyHessian (Yao, Gholami, Keutzer and Mahoney, 2020) iterates powers, an
eigenvalue after the other. PyTorch and PyHessian are no dependencies of this
package: install them for this comparison.
"""

import functools
import os
import time
from typing import Any

import jax
import numpy as np
import pyhessian
import torch
from flax import traverse_util
from torch.nn import functional

from sam_jax.analysis import hessian
from sam_jax.analysis.objective import Objective, network_losses
from sam_jax.training.state import TrainState
from scripts.benchmark.steps import (
  Alternative,
  DifferentResultsError,
  compile_cold,
)
from scripts.benchmark.timing import interleave, ratio, spread
from scripts.benchmark.torch_steps import to_torch, wide_resnet
from scripts.benchmark.training_task import TrainingTask

_COUNT = 5  # eigenvalues
_TRAINING_STEPS = 20  # before: they fill the averages of the batch statistics
# Largest residual of an eigenvalue, relative to it. PyHessian stops where an
# iteration changes an eigenvalue by less.
_TOLERANCE = 1e-3
_MOST_STEPS = 100
# Largest relative difference of eigenvalues: where they are close, power
# iteration stops early.
_DIFFERENCE = 0.1


class _Network(torch.nn.Module):
  """A wide ResNet in evaluation mode, with the parameters of ours."""

  def __init__(self, state: Any):
    super().__init__()
    params, statistics = (
      {path: to_torch(leaf) for path, leaf in _flatten(tree).items()}
      for tree in (state.params, state.batch_stats)
    )
    for leaf in statistics.values():
      leaf.requires_grad_(False)
    self._leaves = torch.nn.ParameterList(params.values())
    leaves = dict(zip(params, self._leaves, strict=True))
    self._layers = traverse_util.unflatten_dict(leaves | statistics)

  def forward(self, image: torch.Tensor) -> torch.Tensor:
    return wide_resnet(self._layers, image)


def measure_torch_hessian(
  task: TrainingTask, rounds: int
) -> list[dict[str, Any]]:
  """Compare products and largest eigenvalues with those of PyHessian.

  Args:
    task: A wide ResNet in float32, on one device. It is trained for a few steps
      on the examples of the Hessian.
    rounds: Number of times to measure each.

  Returns:
    A row of each: seconds of the processor, added up over its cores, and the
    eigenvalues of largest magnitude. Ours are of as many Lanczos steps as their
    residuals need to be within the tolerance.

  Raises:
    DifferentResultsError: The eigenvalues differ: these are not the same
      networks, or one of the two missed an eigenvalue.
  """
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  state, image, label = _train(task)
  objective = _objective(task, state, image, label)
  params = objective.put(state.params)
  steps = _steps_for_tolerance(objective, params)
  channels_first = torch.from_numpy(image.transpose(0, 3, 1, 2))
  analyze = functools.partial(
    pyhessian.hessian,
    _Network(state),
    functional.cross_entropy,
    (channels_first, torch.from_numpy(label)),
    cuda=False,
  )
  peer = analyze()
  found: dict[str, np.ndarray] = {}

  def find_ours() -> None:
    probe = hessian.probe_hessian(objective, params, steps, seed=0)
    found["sam_jax"] = probe.ritz_values[_largest(probe.ritz_values)]

  def find_theirs() -> None:
    values, _ = analyze().eigenvalues(tol=_TOLERANCE, top_n=_COUNT)
    found["PyHessian"] = np.array(values)[_largest(np.array(values))]

  seconds = interleave(
    {
      "product of sam_jax": functools.partial(
        objective.hessian_product, params, params
      ),
      "product of PyHessian": functools.partial(
        pyhessian.hessian_vector_product, peer.gradsH, peer.params, peer.params
      ),
      "sam_jax": find_ours,
      "PyHessian": find_theirs,
    },
    rounds,
    time.process_time,
  )
  _check_equal(found)
  return [
    {
      "by": name,
      "product s": spread(seconds[f"product of {name}"]),
      "product over PyHessian": ratio(
        seconds[f"product of {name}"], seconds["product of PyHessian"]
      ),
      "top 5 s": spread(seconds[name]),
      "top 5 over PyHessian": ratio(seconds[name], seconds["PyHessian"]),
      "eigenvalues": ", ".join(f"{value:.4g}" for value in values),
    }
    for name, values in found.items()
  ]


def _check_equal(found: dict[str, np.ndarray]) -> None:
  """Compare the eigenvalues of both."""
  difference = np.max(np.abs(found["PyHessian"] / found["sam_jax"] - 1))
  if not difference <= _DIFFERENCE:
    raise DifferentResultsError(
      f"The largest eigenvalues are {found['sam_jax']}, and"
      f" {found['PyHessian']} by PyHessian."
    )


def _train(task: TrainingTask) -> tuple[TrainState, np.ndarray, np.ndarray]:
  """Return a trained state, images [N, H, W, C], and labels [N]."""
  step = compile_cold(task, Alternative(task.parts(0.0)))
  for _ in range(_TRAINING_STEPS):
    jax.block_until_ready(step())
  image, target = (
    np.array(step.batch[name])[0] for name in ("image", "target")
  )
  return step.state, image, target.argmax(axis=-1)


def _objective(
  task: TrainingTask, state: TrainState, image: np.ndarray, label: np.ndarray
) -> Objective:
  """Return the mean loss of some examples, that of `_Network`."""
  losses = network_losses(task.parts(0.0).model, preprocess=jax.numpy.asarray)

  def example_losses(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    variables = {"params": params, "batch_stats": state.batch_stats}
    return losses(variables, batch)

  examples = {"image": image, "label": label}
  device = jax.local_devices()[0]
  return Objective(example_losses, examples, len(label), [device])


def _steps_for_tolerance(objective: Objective, params: Any) -> int:
  """Return a number of Lanczos steps, a multiple of ten."""
  for steps in range(10, _MOST_STEPS + 1, 10):
    probe = hessian.probe_hessian(objective, params, steps, seed=0)
    largest = _largest(probe.ritz_values)
    bounds = _TOLERANCE * np.abs(probe.ritz_values[largest])
    if np.all(probe.residuals[largest] <= bounds):
      return steps
  raise DifferentResultsError(
    f"{_MOST_STEPS} Lanczos steps leave residuals above {_TOLERANCE}."
  )


def _largest(values: np.ndarray) -> np.ndarray:
  """Return the indices of the values of largest magnitude."""
  return np.argsort(-np.abs(values))[:_COUNT]


def _flatten(tree: Any) -> dict[Any, np.ndarray]:
  return traverse_util.flatten_dict(jax.device_get(tree))
