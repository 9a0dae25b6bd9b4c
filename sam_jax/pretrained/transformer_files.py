"""Weights of Vision Transformers and MLP-Mixers of google-research.

A .npz file whose arrays are named by paths joined with '/'. Known layouts:

* vision_transformer, which the SAM and the GSAM releases share. Names are ours,
  but Flax's old API counted all layers of a block together: the second
  normalization of a block is `LayerNorm_2`.
* big_vision: below `params/` or `opt/target/`, with the position embeddings in
  `pos_embedding`, and none for the additional token.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from sam_jax.models import mlp_mixer, vision_transformer
from sam_jax.pretrained.checkpoint import READABLE, Checkpoint, CheckpointError
from sam_jax.pretrained.position_embeddings import NAME

_PREFIXES = ("", "params/", "opt/target/")
_FIRST_LAYERS = ("embedding/kernel", "stem/kernel")
_OLD_POSITIONS = ("pos_embedding", "Transformer/pos_embedding")
_HIDDEN = "pre_logits/"
_COUNTED = re.compile(
  r"(?<=/)(LayerNorm|MultiHeadDotProductAttention|MlpBlock|Dense)_(\d+)(?=/)"
)
_SYMMETRIC = (
  "It expects pixels in [-1, 1]: set config.dataset.normalization ="
  " 'symmetric'."
)
_NO_HEAD = (
  "Its linear layer was dropped: it follows a hidden layer, pre_logits, which"
  " the networks here do not have."
)


def is_known(names: Iterable[str]) -> bool:
  """Return True if arrays of these names are of one of the layouts above."""
  return _prefix(names) is not None


def read(
  names: Iterable[str], get: Callable[[str], np.ndarray], path: str
) -> Checkpoint:
  """Read the arrays of a network under our names.

  Args:
    names: All arrays of the file, of a known layout.
    get: Returns an array by its name in the file.
    path: See `Checkpoint`.

  Raises:
    CheckpointError: No network has its sizes.
  """
  prefix = _prefix(names) or ""
  own = [name for name in names if name.startswith(prefix)]
  theirs = _our_names([name.removeprefix(prefix) for name in own])
  kept = {
    our: name for our, name in theirs.items() if not our.startswith(_HIDDEN)
  }
  has_hidden = len(kept) < len(theirs)
  if has_hidden:
    kept = {our: n for our, n in kept.items() if not our.startswith("head/")}
  params = {our: _as_float32(get(prefix + n)) for our, n in kept.items()}
  if NAME in params:
    params[NAME] = _with_token(params[NAME], "cls" in params)
  sources = {our: prefix + name for our, name in kept.items()}
  return Checkpoint(
    params,
    {},
    f"google-research's {_network(params, path)}",
    path,
    sources,
    f"{_NO_HEAD} {_SYMMETRIC}" if has_hidden else _SYMMETRIC,
  )


def _prefix(names: Iterable[str]) -> str | None:
  """Return what precedes the names of a network; None for another file."""
  names = set(names)
  for prefix in _PREFIXES:
    if any(prefix + first in names for first in _FIRST_LAYERS):
      return prefix
  return None


def _our_names(names: Iterable[str]) -> dict[str, str]:
  """Return the name in the file of each of our arrays."""
  # Numbers of each class of layers, by the path before them.
  numbers: dict[tuple[str, str], set[int]] = {}
  for name in names:
    for match in _COUNTED.finditer(name):
      key = _without_numbers(name[: match.start()]), match[1]
      numbers.setdefault(key, set()).add(int(match[2]))
  return {_our_name(name, numbers): name for name in names}


def _our_name(name: str, numbers: Mapping[tuple[str, str], set[int]]) -> str:
  """Return our name of an array: each class of layers is counted from 0."""
  if name in _OLD_POSITIONS:
    return NAME

  def renumbered(match: re.Match[str]) -> str:
    found = numbers[_without_numbers(name[: match.start()]), match[1]]
    return f"{match[1]}_{sorted(found).index(int(match[2]))}"

  return _COUNTED.sub(renumbered, name)


def _without_numbers(path: str) -> str:
  """Return a path in which blocks keep their number, and layers lose it."""
  return _COUNTED.sub(r"\1", path)


def _as_float32(array: np.ndarray) -> np.ndarray:
  """Return float32; NumPy reads bfloat16, which it lacks, as two bytes."""
  if array.dtype.kind == "V" and array.dtype.itemsize == 2:
    array = array.view(jnp.bfloat16)
  return np.asarray(array, np.float32)


def _with_token(embedding: np.ndarray, has_token: bool) -> np.ndarray:
  """Give the additional token the embedding 0 if it has none of its own."""
  is_square = math.isqrt(embedding.shape[1]) ** 2 == embedding.shape[1]
  if not (has_token and is_square):
    return embedding
  return np.concatenate([np.zeros_like(embedding[:, :1]), embedding], axis=1)


def _network(params: Mapping[str, np.ndarray], path: str) -> str:
  """Return the name of the network that has the sizes of some arrays.

  Raises:
    CheckpointError: There is none.
  """
  is_vit = "embedding/kernel" in params
  sizes = vision_transformer.SIZES if is_vit else mlp_mixer.SIZES
  kernel = params["embedding/kernel" if is_vit else "stem/kernel"]
  fits = [size for size, s in sizes.items() if s.width == kernel.shape[-1]]
  if not fits or kernel.ndim != 4:
    raise CheckpointError(
      f"{path} has tokens of {kernel.shape[-1]} channels, which no network here"
      f" has. {READABLE}"
    )
  name = f"{'vit' if is_vit else 'mixer'}_{fits[0]}{kernel.shape[0]}"
  return f"{name}_gap" if is_vit and "cls" not in params else name
