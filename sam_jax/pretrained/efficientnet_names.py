"""Names of an EfficientNet's arrays in other libraries, and ours.

All libraries have the same layers under names of their own. A format says what
a name is (`Naming`), and `translate` finds our name and axes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from sam_jax import wording
from sam_jax.pretrained.checkpoint import (
  READABLE,
  Checkpoint,
  CheckpointError,
  FlatArrays,
  first_of,
)

_STEM_AND_HEAD = {
  "stem_conv": "Stem_0/conv2d",
  "stem_norm": "Stem_0/batch_normalization",
  "head_conv": "Head_{head}/conv2d",
  "head_norm": "Head_{head}/batch_normalization",
  "dense": "Head_{head}/dense",
}
# Layers of blocks without and with an expansion, whose layers are counted.
_PLAIN = {
  "depthwise_conv": "depthwise_conv2d",
  "depthwise_norm": "batch_normalization_0",
  "reduce": "SqueezeExcite_0/reduce_conv2d_0",
  "restore": "SqueezeExcite_0/expand_conv2d_1",
  "project_conv": "project_conv2d_0",
  "project_norm": "batch_normalization_1",
}
_EXPANDING = {
  **_PLAIN,
  "expand_conv": "expand_conv2d_0",
  "expand_norm": "batch_normalization_0",
  "depthwise_norm": "batch_normalization_1",
  "project_conv": "project_conv2d_1",
  "project_norm": "batch_normalization_2",
}
# Arrays of a layer, in PyTorch, in TensorFlow, and ours.
_OF_NORM = {
  "weight": "scale",
  "gamma": "scale",
  "bias": "bias",
  "beta": "bias",
  "running_mean": "mean",
  "moving_mean": "mean",
  "running_var": "var",
  "moving_variance": "var",
}
_OF_CONV = {"weight": "kernel", "kernel": "kernel", "bias": "bias"}
_OF_DEPTHWISE = dict.fromkeys(
  ("weight", "kernel", "depthwise_kernel"), "depthwise_kernel"
)
# Axes of PyTorch's kernels in ours: [O, I, H, W], and [C, 1, H, W].
_TORCH_AXES = {
  ("kernel", 4): (2, 3, 1, 0),
  ("kernel", 2): (1, 0),
  ("depthwise_kernel", 4): (2, 3, 0, 1),
}
_TORCH_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")


class ArrayName(NamedTuple):
  """A name in a file, in parts.

  Attributes:
    layer: The name's layer as its format calls it, without the block.
    leaf: The array of this layer, such as "weight" or "gamma".
    block: Stage and number of its block, both from 0; None in stem and head.
  """

  layer: str
  leaf: str
  block: tuple[int, int] | None = None


def parse_torch_name(name: str) -> ArrayName | None:
  """Split a name of PyTorch, such as `blocks.STAGE.NUMBER.conv_dw.weight`."""
  layer, _, leaf = name.rpartition(".")
  block = _TORCH_BLOCK.match(layer)
  if not block:
    return ArrayName(layer, leaf)
  place = int(block[1]), int(block[2])
  return ArrayName(layer[block.end() :], leaf, place)


class Naming(NamedTuple):
  """Names that a format gives the layers of an EfficientNet.

  Attributes:
    library: Name of the format, for messages.
    parse: Splits a name; None for one that is no EfficientNet's.
    stem_and_head: Our layers (keys of `_STEM_AND_HEAD`) by theirs.
    plain: Our layers of a block without expansion (keys of `_PLAIN`).
    expanding: Our layers of a block with an expansion.
    expansion: A layer that only blocks with an expansion have.
    has_torch_axes: True for kernels of PyTorch.
  """

  library: str
  parse: Callable[[str], ArrayName | None]
  stem_and_head: Mapping[str, str]
  plain: Mapping[str, str]
  expanding: Mapping[str, str]
  expansion: str
  has_torch_axes: bool = False


def translate(
  naming: Naming,
  names: Iterable[str],
  read: Callable[[str], np.ndarray],
  path: str,
  kind: str,
) -> Checkpoint:
  """Read the arrays of an EfficientNet under our names and with our axes.

  Args:
    naming: Names of the format.
    names: All arrays of the file.
    read: Returns an array by its name in the file.
    path: See `Checkpoint`.
    kind: See `Checkpoint`.

  Raises:
    CheckpointError: It is no EfficientNet's, or lacks a block between others.
  """
  ours = our_names(naming, names, path)
  params: FlatArrays = {}
  stats: FlatArrays = {}
  for source, name in ours.items():
    kept = stats if name.endswith(("/mean", "/var")) else params
    kept[name] = _with_our_axes(naming, name, read(source))
  sources = {name: source for source, name in ours.items()}
  return Checkpoint(params, stats, kind, path, sources)


def our_names(
  naming: Naming, names: Iterable[str], path: str
) -> dict[str, str]:
  """Return our name of each array of a file.

  Args:
    naming: Names of the format.
    names: All arrays of the file.
    path: Path of the file, for messages.

  Raises:
    CheckpointError: See `translate`.
  """
  parsed = {name: naming.parse(name) for name in sorted(names)}
  known = {name: parts for name, parts in parsed.items() if parts}
  numbers = _number_blocks({p.block for p in known.values() if p.block}, path)
  expanding = {p.block for p in known.values() if p.layer == naming.expansion}
  ours = {
    name: _our_name(naming, parts, numbers, parts.block in expanding)
    for name, parts in known.items()
  }
  found = {name: our for name, our in ours.items() if our}
  if not any(our.startswith("Stem_0/conv2d/") for our in found.values()):
    raise CheckpointError(
      f"{path} is no EfficientNet of {naming.library}: its arrays are"
      f" {first_of(map(repr, parsed))}. {READABLE}"
    )
  if unknown := [name for name in parsed if name not in found]:
    raise CheckpointError(
      f"{path} has {wording.count(len(unknown), 'array')} that no EfficientNet"
      f" of {naming.library} has ({first_of(map(repr, unknown))}): it is"
      f" another architecture. {READABLE}"
    )
  return found


def _number_blocks(
  blocks: set[tuple[int, int]], path: str
) -> dict[tuple[int, int], int]:
  """Return the number of each block in the network, from 1.

  Raises:
    CheckpointError: One between others is missing.
  """
  numbers = {block: i + 1 for i, block in enumerate(sorted(blocks))}
  following = (0, 0)
  for stage, number in numbers:
    if (stage, number) not in (following, (following[0] + 1, 0)):
      raise CheckpointError(
        f"{path} lacks the block before number {number} of stage {stage}"
        " (both from 0). It is damaged; fetch it again."
      )
    following = (stage, number + 1)
  return numbers


def _our_name(
  naming: Naming,
  parts: ArrayName,
  numbers: Mapping[tuple[int, int], int],
  has_expansion: bool,
) -> str | None:
  """Return our name of an array; None for one that no EfficientNet has."""
  if parts.block is None:
    layer = naming.stem_and_head.get(parts.layer, "")
    place = _STEM_AND_HEAD.get(layer, "").format(head=len(numbers) + 1)
  else:
    names = naming.expanding if has_expansion else naming.plain
    layer = names.get(parts.layer, "")
    inside = (_EXPANDING if has_expansion else _PLAIN).get(layer, "")
    place = inside and f"MBConvBlock_{numbers[parts.block]}/{inside}"
  leaves = _OF_DEPTHWISE if layer == "depthwise_conv" else _OF_CONV
  leaf = (_OF_NORM if layer.endswith("_norm") else leaves).get(parts.leaf)
  return f"{place}/{leaf}" if place and leaf else None


def _with_our_axes(naming: Naming, name: str, array: np.ndarray) -> np.ndarray:
  """Return an array as float32 with our axes, contiguous."""
  axes = _TORCH_AXES.get((name.rpartition("/")[2], array.ndim))
  if naming.has_torch_axes and axes:
    array = array.transpose(axes)
  return np.ascontiguousarray(array, np.float32)
