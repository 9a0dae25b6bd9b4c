"""Weights of `keras.applications.EfficientNetB0` to B7, in HDF5.

Two layouts: `.weights.h5` of Keras 3, where the name of a layer is an attribute
of its group, and the older `.h5` of the published files, where it is the name
of the group. Names: `block2a_expand_conv/kernel`.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from sam_jax.pretrained.checkpoint import READABLE, Checkpoint, CheckpointError
from sam_jax.pretrained.efficientnet_names import ArrayName, Naming, translate

_BLOCK = re.compile(r"block(\d)([a-z])_")
# The variables of a layer in .weights.h5, where they are numbered.
_OF_NORM: tuple[str, ...] = ("gamma", "beta", "moving_mean", "moving_variance")
_OF_CONV = ("kernel", "bias")
# Keras normalizes images in the network, by this layer's mean and variance.
_NORMALIZATION = "normalization"
_OF_NORMALIZATION = ("mean", "variance", "count")


def parse(name: str) -> ArrayName | None:
  """Split the name of an array, such as `block2a_expand_conv/kernel`."""
  layer, _, leaf = name.rpartition("/")
  block = _BLOCK.match(layer)
  if not block:
    return ArrayName(layer, leaf)
  place = int(block[1]) - 1, ord(block[2]) - ord("a")
  return ArrayName(layer[block.end() :], leaf, place)


_WITHOUT_EXPANSION = {
  "dwconv": "depthwise_conv",
  "bn": "depthwise_norm",
  "se_reduce": "reduce",
  "se_expand": "restore",
  "project_conv": "project_conv",
  "project_bn": "project_norm",
}
NAMING = Naming(
  library="Keras",
  parse=parse,
  stem_and_head={
    "stem_conv": "stem_conv",
    "stem_bn": "stem_norm",
    "top_conv": "head_conv",
    "top_bn": "head_norm",
    "predictions": "dense",
    "probs": "dense",  # in the package efficientnet, which Keras' code is from
  },
  plain=_WITHOUT_EXPANSION,
  expanding={
    **_WITHOUT_EXPANSION,
    "expand_conv": "expand_conv",
    "expand_bn": "expand_norm",
  },
  expansion="expand_conv",
)


def read(file: pathlib.Path, path: str) -> Checkpoint:
  """Read an HDF5 file.

  Args:
    file: The file, local.
    path: Path that the user gave, for messages.

  Raises:
    CheckpointError: It is not of an EfficientNet, or has no names of layers.
  """
  import h5py

  with h5py.File(file, "r") as root:
    is_numbered = "layers" in root
    found = _numbered(root["layers"]) if is_numbered else _named(root)
    arrays = dict(found)
    if not arrays:
      raise CheckpointError(
        f"{path} is an HDF5 file without names of layers. Load it with the"
        f" Keras that wrote it, and save it with Keras 3.15. {READABLE}"
      )
    normalization = {
      name.rpartition("/")[2]: arrays.pop(name)
      for name in [*arrays]
      if name.startswith(f"{_NORMALIZATION}/")
    }
    checkpoint = translate(
      NAMING,
      arrays,
      lambda name: arrays[name][()],
      path,
      "Keras' EfficientNet",
    )
    statement = _preprocessing(normalization)
  return checkpoint._replace(preprocessing=statement)


def _named(root: Any) -> Iterator[tuple[str, Any]]:
  """Yield LAYER/ARRAY and the data of a file of the older layout."""
  root = root.get("model_weights", root)  # of a whole model
  for path, value in _datasets(root):
    layer, _, leaf = path.rpartition("/")
    yield f"{layer.rpartition('/')[2]}/{leaf.removesuffix(':0')}", value


def _numbered(layers: Any) -> Iterator[tuple[str, Any]]:
  """Yield LAYER/ARRAY and the data of a `.weights.h5`."""
  for path, value in _datasets(layers):
    group, _, number = path.rpartition("/")
    layer = str(layers[group].attrs.get("name", group.split("/")[0]))
    names = _OF_NORM if layer.endswith("bn") else _OF_CONV
    if layer == _NORMALIZATION:
      names = _OF_NORMALIZATION
    is_known = number.isdigit() and int(number) < len(names)
    yield f"{layer}/{names[int(number)] if is_known else number}", value


def _datasets(group: Any) -> list[tuple[str, Any]]:
  """Return the arrays below a group, by their path in it."""
  import h5py

  found: list[tuple[str, Any]] = []

  def add(path: str, value: Any) -> None:
    if isinstance(value, h5py.Dataset):
      found.append((path, value))

  group.visititems(add)
  return found


def _preprocessing(normalization: dict[str, Any]) -> str:
  """Return a statement about the images that a network was trained on."""
  if not {"mean", "variance"} <= set(normalization):
    return ""
  mean, variance = (
    [round(float(v), 4) for v in normalization[name][()].reshape(-1)]
    for name in ("mean", "variance")
  )
  return (
    f"Its own layer normalized images in [0, 1] by mean {mean} and variance"
    f" {variance}."
  )
