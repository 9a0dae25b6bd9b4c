"""Numbers of the official networks, and variables that follow their rules."""

import dataclasses
import functools
import json
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from sam_jax.training.state import TrainState
from sam_jax.training.step import Parts, create_state
from tests.models.shapes import init_shapes

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"

Shapes = dict[str, tuple[int, ...]]


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(flat, sep="/")


def flattened(tree: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep="/")


class Golden:
  """One .npz file; `golden["x"]` is an array."""

  def __init__(self, name: str):
    with np.load(GOLDEN / f"{name}.npz") as file:
      self.arrays = {key: file[key] for key in file.files}

  def __getitem__(self, key: str) -> np.ndarray:
    return self.arrays[key]

  def tree(self, prefix: str) -> dict[str, Any]:
    """Return all arrays below a prefix, nested."""
    start = len(prefix) + 1
    return nested(
      {
        k[start:]: v
        for k, v in self.arrays.items()
        if k.startswith(f"{prefix}/")
      }
    )

  def variables(self) -> dict[str, Any]:
    return {"params": self.tree("params"), "batch_stats": self.tree("state")}

  def gradient_error(self, grads: Mapping[str, Any], suffix: str = "") -> float:
    """Return the largest relative error of norms, sums and arrays."""
    grads = flattened(grads)
    names = [str(name) for name in self["grad_names"]]
    assert sorted(grads) == names
    expected = self[f"grad_norms{suffix}"]
    norms = np.array([np.linalg.norm(grads[name]) for name in names])
    sums = np.array([np.sum(grads[name]) for name in names])
    roots = np.sqrt([grads[name].size for name in names])
    errors = [
      *np.abs(norms - expected),
      *np.abs(sums - self[f"grad_sums{suffix}"]) / roots,
    ]
    scales = [*expected, *expected]
    for name, value in flattened(self.tree(f"grad{suffix}")).items():
      errors.append(np.linalg.norm(grads[name] - value))
      scales.append(np.linalg.norm(value))
    # Biases that a later batch norm subtracts have gradient 0, up to rounding.
    return np.max(np.array(errors) / (np.array(scales) + 0.01))


def official_shapes(model: str) -> tuple[Shapes, Shapes]:
  """Return parameters and batch statistics of a network, name -> shape."""
  spec = json.loads((GOLDEN / "shapes" / f"{model}.json").read_text())
  params = {name: tuple(shape) for name, shape in spec["params"].items()}
  stats = {
    name.removeprefix("state/"): tuple(shape)
    for name, shape in spec["state"].items()
  }
  return params, stats


def rule_variables(model: str, gain: float) -> dict[str, Any]:
  """Return deterministic variables of an official network, from NumPy alone.

  Array i of the sorted parameter names followed by the sorted names of batch
  statistics is drawn from `RandomState(i)`: kernels have variance
  `gain / fan_in`, other arrays are close to their usual values.
  """
  return _filled(*official_shapes(model), gain)


def quick_variables(model: nn.Module, x: Any) -> dict[str, Any]:
  """Return variables by the same rule, much faster than `model.init`."""
  return block_variables(model, x, train=False)


def quick_state(parts: Parts, image_shape: tuple[int, ...]) -> TrainState:
  """Return a state at step 0 with such variables, on the host.

  Programs that draw the parameters of a network take long to compile.
  """
  image = np.zeros((1, *image_shape), np.float32)
  variables = quick_variables(parts.model, image)
  model: Any = types.SimpleNamespace(init=lambda *_, **__: variables)
  parts = dataclasses.replace(parts, model=model)
  return jax.device_get(create_state(parts, image_shape, seed=0))


def block_variables(block: nn.Module, x: Any, **kwargs: Any) -> dict[str, Any]:
  """Return variables of any module by the same rule.

  Args:
    block: The module.
    x: Its input.
    **kwargs: Keyword arguments of its call.
  """
  _, shapes = init_shapes(block, x, **kwargs)
  params, stats = (
    {name: leaf.shape for name, leaf in flattened(shapes.get(part, {})).items()}
    for part in ("params", "batch_stats")
  )
  return _filled(params, stats, gain=2.0)


def _filled(params: Shapes, stats: Shapes, gain: float) -> dict[str, Any]:
  shapes = params | stats
  values = {
    name: _rule(np.random.RandomState(i), name, shapes[name], gain)
    for i, name in enumerate([*sorted(params), *sorted(stats)])
  }
  return {
    "params": nested({name: values[name] for name in params}),
    "batch_stats": nested({name: values[name] for name in stats}),
  }


def _rule(
  random: np.random.RandomState, name: str, shape: tuple[int, ...], gain: float
) -> np.ndarray:
  leaf = name.rsplit("/", 1)[-1]
  if leaf == "var":
    return (1 + 0.1 * random.uniform(size=shape)).astype(np.float32)
  noise = random.normal(size=shape)
  if leaf in ("kernel", "depthwise_kernel"):
    inputs = shape[:-1] if leaf == "kernel" else shape[:2]
    return (noise * np.sqrt(gain / np.prod(inputs))).astype(np.float32)
  mean = 1.0 if leaf == "scale" else 0.0
  return (mean + 0.1 * noise).astype(np.float32)


def rule_images(batch: int, size: int) -> np.ndarray:
  """Return images with coarse structure, so that logits depend on them."""
  random = np.random.RandomState(12345)
  coarse = random.normal(size=(batch, 4, 4, 3))
  fine = random.normal(size=(batch, size, size, 3))
  images = coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
  return (images + 0.2 * fine).astype(np.float32)


@functools.cache
def full_size(
  record: str, model: str, gain: float
) -> tuple[Golden, dict[str, Any], np.ndarray]:
  """Return records, variables and images of a network of the paper's size."""
  golden, variables = Golden(record), rule_variables(model, gain)
  x = rule_images(2, 224)
  # Check the rule first: the records mean nothing for other variables.
  params = flattened(variables["params"])
  names = [str(name) for name in golden["param_checksum_names"]]
  sums = [params[name].sum(dtype=np.float64) for name in names]
  np.testing.assert_allclose(sums, golden["param_checksum_sums"], 1e-5, 1e-5)
  np.testing.assert_allclose(
    x.sum(dtype=np.float64), golden["input_checksum"], 1e-5
  )
  return golden, variables, x
