"""Arrays of a small network under the names of other libraries."""

import functools
import json
import pathlib

import jax
import numpy as np

from sam_jax.models import create_model
from sam_jax.pretrained import timm_files
from sam_jax.pretrained.efficientnet_names import our_names
from tests.models.golden_models import flattened, quick_variables

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "pretrained"


def golden(name):
  """Return the shapes by name and the logits of a recorded network."""
  arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
  return json.loads(str(arrays["shapes"])), arrays["logits"]


@functools.cache
def tiny_variables():
  """Return variables of efficientnet_tiny, each array of other values."""
  model = create_model("efficientnet_tiny", 10)
  variables = quick_variables(model, np.zeros((1, 32, 32, 3), np.float32))
  random = np.random.RandomState(0)
  return jax.tree.map(
    lambda a: random.standard_normal(a.shape).astype(np.float32), variables
  )


def tiny_arrays():
  """Return these arrays by our names."""
  variables = tiny_variables()
  arrays = {}
  for group in ("params", "batch_stats"):
    arrays |= flattened(variables[group])
  return {name: np.asarray(value) for name, value in arrays.items()}


def timm_arrays():
  """Return these arrays by timm's names, with PyTorch's axes.

  The blocks of efficientnet_tiny are the first ones of b0.
  """
  shapes, _ = golden("timm_tf_efficientnet_b0_224")
  names = [
    name
    for name in shapes
    if not name.startswith("blocks.") or name[7] in "012"
  ]
  ours = our_names(timm_files.NAMING, names, "b0")
  arrays = tiny_arrays()
  return {name: torch_axes(our, arrays[our]) for name, our in ours.items()}


def torch_axes(our_name, array):
  """Return an array of ours with the axes of PyTorch."""
  if our_name.endswith("depthwise_kernel"):
    array = array.transpose(2, 3, 0, 1)
  elif array.ndim == 4:
    array = array.transpose(3, 2, 0, 1)
  elif array.ndim == 2:
    array = array.T
  return np.ascontiguousarray(array)
