"""Golden data of the official models, as Linen variables."""

import json
import pathlib

import jax
import numpy as np
from flax import traverse_util

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def nested(flat):
  return traverse_util.unflatten_dict(flat, sep="/")


def flattened(tree):
  return traverse_util.flatten_dict(tree, sep="/")


class Golden:
  """One .npz file; `golden["x"]` is an array."""

  def __init__(self, name):
    with np.load(GOLDEN / f"{name}.npz") as file:
      self.arrays = {key: file[key] for key in file.files}

  def __getitem__(self, key):
    return self.arrays[key]

  def tree(self, prefix):
    """All arrays below a prefix, nested."""
    start = len(prefix) + 1
    return nested(
      {
        k[start:]: v
        for k, v in self.arrays.items()
        if k.startswith(f"{prefix}/")
      }
    )

  def variables(self):
    return {"params": self.tree("params"), "batch_stats": self.tree("state")}


def official_shapes(model):
  """`(params, batch_stats)` of the official model, flat name -> shape."""
  spec = json.loads((GOLDEN / "shapes" / f"{model}.json").read_text())
  params = {name: tuple(shape) for name, shape in spec["params"].items()}
  stats = {
    name.removeprefix("state/"): tuple(shape)
    for name, shape in spec["state"].items()
  }
  return params, stats


def rule_variables(model, gain):
  """Deterministic variables of an official model, from NumPy alone.

  Array i of the sorted parameter names followed by the sorted names of batch
  statistics is drawn from `RandomState(i)`: kernels have variance
  `gain / fan_in`, the rest lies around its usual value.
  """
  return _filled(*official_shapes(model), gain)


def quick_variables(model, x):
  """Variables of any model by the same rule, much faster than `model.init`."""
  return block_variables(model, x, train=False)


def block_variables(block, x, **kwargs):
  """Variables of any module, by its call's keyword arguments."""
  shapes = jax.eval_shape(
    lambda x: block.init(jax.random.key(0), x, **kwargs), x
  )
  params, stats = (
    {name: leaf.shape for name, leaf in flattened(shapes[part]).items()}
    for part in ("params", "batch_stats")
  )
  return _filled(params, stats, gain=2.0)


def _filled(params, stats, gain):
  shapes = params | stats
  values = {
    name: _rule(np.random.RandomState(i), name, shapes[name], gain)
    for i, name in enumerate([*sorted(params), *sorted(stats)])
  }
  return {
    "params": nested({name: values[name] for name in params}),
    "batch_stats": nested({name: values[name] for name in stats}),
  }


def _rule(random, name, shape, gain):
  leaf = name.rsplit("/", 1)[-1]
  if leaf == "var":
    return (1 + 0.1 * random.uniform(size=shape)).astype(np.float32)
  noise = random.normal(size=shape)
  if leaf in ("kernel", "depthwise_kernel"):
    inputs = shape[:-1] if leaf == "kernel" else shape[:2]
    return (noise * np.sqrt(gain / np.prod(inputs))).astype(np.float32)
  mean = 1.0 if leaf == "scale" else 0.0
  return (mean + 0.1 * noise).astype(np.float32)


def rule_images(batch, size):
  """Images with coarse structure, so that logits depend on them."""
  random = np.random.RandomState(12345)
  coarse = random.normal(size=(batch, 4, 4, 3))
  fine = random.normal(size=(batch, size, size, 3))
  images = coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
  return (images + 0.2 * fine).astype(np.float32)
