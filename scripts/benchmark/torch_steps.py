"""Steps of PyTorch on the same network, as davda54/sam takes them.

PyTorch is no dependency of this package: install it for this comparison.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from scripts.benchmark.steps import (
  Alternative,
  CompiledStep,
  DifferentResultsError,
  compile_cold,
)
from scripts.benchmark.timing import interleave, ratio, spread
from scripts.benchmark.training_task import RHO, TrainingTask

# Largest difference of the two losses at the same weights.
_TOLERANCE = 1e-3


class TorchStep:
  """A step of SGD or SAM; a call takes it.

  The perturbation, its norm and its removal are those of davda54/sam, the most
  used SAM of PyTorch. Memory is channels last, which is faster here.
  """

  def __init__(self, params: Any, batch: Mapping[str, Any], rho: float):
    """Convert the parameters of a wide ResNet [1] and a batch.

    Args:
      params: The parameters of one of our networks.
      batch: `image` [1, N, H, W, C] and `target` [1, N, classes].
      rho: Radius of the neighborhood; 0 is SGD.
    """
    self._rho = rho
    self._params = jax.tree.map(to_torch, jax.device_get(params))
    self._leaves = jax.tree.leaves(self._params)
    image = torch.from_numpy(np.array(batch["image"])[0].transpose(0, 3, 1, 2))
    self._image = image.contiguous(memory_format=torch.channels_last)
    self._target = torch.from_numpy(np.array(batch["target"])[0])
    self._optimizer = torch.optim.SGD(
      self._leaves, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )

  def __call__(self) -> float:
    """Take a step, and return the loss before it."""
    loss = self._differentiate()
    if self._rho:
      eps = self._perturb()
      self._differentiate()
      with torch.no_grad():
        for weights, e in zip(self._leaves, eps, strict=True):
          weights.sub_(e)
    self._optimizer.step()
    return loss.item()

  def _differentiate(self) -> torch.Tensor:
    self._optimizer.zero_grad()
    logits = wide_resnet(self._params, self._image)
    loss = functional.cross_entropy(logits, self._target)
    loss.backward()
    return loss

  @torch.no_grad()
  def _perturb(self) -> list[torch.Tensor]:
    """Add rho g / ||g|| to the parameters, and return it."""
    norms = [weights.grad.norm(p=2) for weights in self._leaves]
    scale = self._rho / (torch.norm(torch.stack(norms)) + 1e-12)
    eps = [weights.grad * scale for weights in self._leaves]
    for weights, e in zip(self._leaves, eps, strict=True):
      weights.add_(e)
    return eps


def wide_resnet(params: Mapping[str, Any], image: torch.Tensor) -> torch.Tensor:
  """Compute `sam_jax.models.wide_resnet`.

  Args:
    params: Its parameters, by the same names. With the batch statistics among
      them, it is in evaluation mode, and in train mode without.
    image: [N, C, H, W].

  Returns:
    Logits [N, classes].
  """
  x = _convolve(image, params["init_conv"])
  for group in range(3):
    blocks = params[f"WideResnetGroup_{group}"]
    for i in range(len(blocks)):
      block = blocks[f"WideResnetBlock_{i}"]
      stride = 2 if group and i == 0 else 1
      y = _norm_relu(x, block["init_bn"])
      shortcut = y if group == i == 0 else x
      y = _convolve(y, block["conv1"], stride)
      y = _convolve(_norm_relu(y, block["bn_2"]), block["conv2"])
      if stride > 1:
        shortcut = functional.avg_pool2d(shortcut, stride)
      missing = y.shape[1] - shortcut.shape[1]
      x = y + functional.pad(shortcut, (0, 0, 0, 0, 0, missing))
  x = _norm_relu(x, params["pre-pool-bn"]).mean(dim=(2, 3))
  return x @ params["Dense_3"]["kernel"] + params["Dense_3"]["bias"]


def _convolve(x, layer, stride=1):
  if stride == 1:
    return functional.conv2d(x, layer["kernel"], padding=1)
  # JAX's "SAME" pads an even side after its last pixel only.
  return functional.conv2d(
    functional.pad(x, (0, 1, 0, 1)), layer["kernel"], stride=stride
  )


def _norm_relu(x, layer):
  statistics = layer.get("mean"), layer.get("var")
  training = statistics[0] is None
  return functional.relu(
    functional.batch_norm(
      x, *statistics, layer["scale"], layer["bias"], training=training
    )
  )


def to_torch(array: np.ndarray) -> torch.Tensor:
  """Copy an array; kernels [H, W, I, O] become [O, I, H, W]."""
  if array.ndim == 4:
    array = array.transpose(3, 2, 0, 1)
  tensor = torch.from_numpy(np.array(array))
  if array.ndim == 4:
    tensor = tensor.contiguous(memory_format=torch.channels_last)
  return tensor.requires_grad_()


def measure_torch(task: TrainingTask, rounds: int) -> list[dict[str, Any]]:
  """Compare our steps with those of PyTorch, on the cores of a CPU.

  Args:
    task: A wide ResNet in float32, on one device.
    rounds: Number of times to measure each.

  Returns:
    A row of measurements of each.

  Raises:
    DifferentResultsError: The losses differ: these are not the same networks.
  """
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  ours: dict[str, CompiledStep] = {}
  theirs: dict[str, TorchStep] = {}
  for name, rho in (("SGD", 0.0), ("SAM", RHO)):
    ours[name] = step = compile_cold(task, Alternative(task.parts(rho)))
    theirs[name] = TorchStep(step.state.params, step.batch, rho)
    loss, expected = float(step()["loss"]), theirs[name]()
    if not abs(loss - expected) <= _TOLERANCE * expected:
      raise DifferentResultsError(
        f"{name}'s first loss is {loss}, and {expected} in PyTorch."
      )
  seconds = interleave(
    {f"sam_jax {name}": step for name, step in ours.items()}
    | {f"PyTorch {name}": step for name, step in theirs.items()},
    rounds,
  )
  return [
    {
      "step": name,
      "milliseconds": spread([1000 * s for s in times]),
      "over PyTorch": ratio(times, seconds[f"PyTorch {name[-3:]}"]),
      "over SGD": ratio(times, seconds[f"{name[:-3]}SGD"]),
      "images/s": task.batch / spread(times).median,
    }
    for name, times in seconds.items()
  ]
