"""The weights of a network, read from a file of any format."""

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

IMAGE_SHAPE = (32, 32, 3)  # of images for a network of any image size

FlatArrays = dict[str, np.ndarray]
Variables = Mapping[str, Any]

# Modules of ViTs and Mixers whose linear layers are not the last ones.
_PERCEPTRONS = ("MlpBlock_0", "token_mixing", "channel_mixing")

READABLE = (
  "Give weights of a source that docs/pretrained.md lists, a file that `python"
  " -m sam_jax.convert` wrote, or the workdir of a run."
)
NO_PICKLES = (
  "Pickles can run code, so none is opened. timm's weights are on the Hugging"
  " Face hub as model.safetensors; convert others with safetensors.torch."
)
UNSTATED = (
  "The file does not say how its images were normalized: like ImageNet's, or to"
  " [-1, 1] if it is of AdvProp."
)


class CheckpointError(ValueError):
  """Weights that can't be read or don't fit; one line says why."""


class Checkpoint(NamedTuple):
  """Arrays of a checkpoint, by names joined with '/'.

  Attributes:
    params: Parameters.
    batch_stats: Running averages; their names end in `/mean` and `/var`.
    kind: Description of the checkpoint's origin.
    path: Path of the checkpoint.
    sources: By our name of an array: its name in a file of another library.
    preprocessing: Statement about the images that it was trained on, or "".
    image_shape: Height, width and channels of images that fit the network.
  """

  params: FlatArrays
  batch_stats: FlatArrays
  kind: str
  path: str
  sources: Mapping[str, str] = {}
  preprocessing: str = ""
  image_shape: tuple[int, ...] = IMAGE_SHAPE

  def num_classes(self) -> int | None:
    """Return the number of outputs of the linear layer; None without one."""
    kernels = [
      name for name in self.params if is_head(name) and name.endswith("/kernel")
    ]
    if not kernels:
      return None
    # The longest first: Dense_10 comes after Dense_9.
    last = max(kernels, key=lambda name: (len(name), name))
    return self.params[last].shape[-1]


def is_head(name: str) -> bool:
  """Return True if an array belongs to a final linear layer.

  Linear layers of ViTs and Mixers with a number are inside of blocks.
  """
  *path, layer = ["", *name.split("/")[:-1]]
  is_numbered = layer.startswith("Dense_") and path[-1] not in _PERCEPTRONS
  return layer in ("dense", "head") or is_numbered


def first_of(names: Iterable[str]) -> str:
  """Return the first three of some names, for a message."""
  first = list(itertools.islice(names, 4))
  return ", ".join([*first[:3], "..."] if len(first) > 3 else first)


def checkpoint_of(
  variables: Variables, kind: str, path: str | os.PathLike
) -> Checkpoint:
  """Return the variables of a network as a checkpoint.

  Args:
    variables: `{"params", "batch_stats"}`, NumPy arrays.
    kind: See `Checkpoint`.
    path: See `Checkpoint`.

  Raises:
    CheckpointError: A value is not an array.
  """
  params = _flatten(variables["params"])
  stats = _flatten(variables.get("batch_stats", {}))
  for name, value in [*params.items(), *stats.items()]:
    if not isinstance(value, np.ndarray):
      raise CheckpointError(
        f"{path}: {name!r} is not an array but a {type(value).__name__}. The "
        "file is damaged or not a checkpoint; fetch it again."
      )
  return Checkpoint(_as_float32(params), _as_float32(stats), kind, str(path))


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  flat = traverse_util.flatten_dict(tree, sep="/")
  # Batch statistics are keyed by '/module/path' in official files.
  return {name.lstrip("/"): value for name, value in flat.items()}


def _as_float32(arrays: Mapping[str, Any]) -> FlatArrays:
  return {name: np.asarray(v, np.float32) for name, v in arrays.items()}
