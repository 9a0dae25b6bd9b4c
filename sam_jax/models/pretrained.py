"""Pretrained parameters: official checkpoints, converted files, our runs.

Files are msgpack files of `flax.serialization`; nothing is ever unpickled.
Three layouts of the official release (google-research/sam) are known, in
addition to our own `{"params", "batch_stats"}`:

* a model: `{"0": {"params"}, "1": {"/module/path": {"mean", "var"}}}`;
* a training run: `{"optimizer": {"target": {"params"}}, "model_state", ...}`,
  where `model_state` maps module paths as above;
* a training run with an exponential moving average, where `model_state` is
  `{"0": <module paths>, "1": {"param_ema": <a model>}}`.

Parameter names need no translation: see `sam_jax.models.layers`.
"""

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util

from sam_jax.models.classifier import Classifier
from sam_jax.models.registry import create_model

FlatArrays = dict[str, np.ndarray]
Variables = Mapping[str, Any]


class Checkpoint(NamedTuple):
  """Arrays of a checkpoint, by names joined with '/'.

  Attributes:
    params: Parameters.
    batch_stats: Running averages; their names end in `/mean` and `/var`.
    kind: Description of the checkpoint's origin.
    path: Path of the checkpoint.
  """

  params: FlatArrays
  batch_stats: FlatArrays
  kind: str
  path: str

  def num_classes(self) -> int | None:
    """Return the number of outputs of the linear layer; None without one."""
    kernels = [
      name
      for name in self.params
      if _is_head(name) and name.endswith("/kernel")
    ]
    if not kernels:
      return None
    last = max(
      kernels, key=lambda name: (len(name), name)
    )  # Dense_10 > Dense_9
    return self.params[last].shape[-1]


def read_checkpoint(
  path: str | os.PathLike, *, use_ema: bool = True
) -> Checkpoint:
  """Read an official checkpoint or a converted file.

  Args:
    path: The file, for example `.../checkpoint_0`; local or `gs://`.
    use_ema: Take the moving averages if the file has them, as the official
      evaluation does.

  Returns:
    The arrays, float32.

  Raises:
    OSError: The file cannot be read.
    ValueError: The file is truncated, or not a known checkpoint.
  """
  tree = _unpack(path)
  try:
    params, stats, kind = _find_model(tree, use_ema)
    variables = {"params": params, "batch_stats": stats}
    return checkpoint_of(variables, kind, path)
  except (KeyError, TypeError, AttributeError) as error:
    raise _unknown_layout(path, tree) from error


def checkpoint_of(
  variables: Variables, kind: str, path: str | os.PathLike
) -> Checkpoint:
  """Return the variables of a network as a checkpoint.

  Args:
    variables: `{"params", "batch_stats"}`, NumPy arrays.
    kind: See `Checkpoint`.
    path: See `Checkpoint`.

  Raises:
    ValueError: A value is not an array.
  """
  params = _flatten(variables["params"])
  stats = _flatten(variables.get("batch_stats", {}))
  for name, value in [*params.items(), *stats.items()]:
    if not isinstance(value, np.ndarray):
      raise ValueError(
        f"{path}: {name!r} is not an array but a {type(value).__name__}. The "
        "file is damaged or not a checkpoint; fetch it again."
      )
  return Checkpoint(_as_float32(params), _as_float32(stats), kind, str(path))


def load_pretrained(
  checkpoint: Checkpoint, variables: Variables
) -> tuple[dict[str, Any], str]:
  """Replace freshly initialized variables by those of a checkpoint.

  The final linear layer stays as initialized if the numbers of classes differ.
  All other names and shapes must be the same in both.

  Args:
    checkpoint: Result of `read_checkpoint`.
    variables: `{"params", "batch_stats"}` of the network to fill, arrays or
      `jax.ShapeDtypeStruct`s.

  Returns:
    The filled variables (NumPy arrays, float32) and a line that reports what
    was loaded.

  Raises:
    ValueError: The checkpoint is of another architecture.
  """
  fresh = traverse_util.flatten_dict(dict(variables["params"]), sep="/")
  fresh_stats = traverse_util.flatten_dict(
    dict(variables.get("batch_stats", {})), sep="/"
  )
  new_head = _resized_head(fresh, checkpoint.params)
  loaded = {k: v for k, v in checkpoint.params.items() if k not in new_head}
  expected = {k: v for k, v in fresh.items() if k not in new_head}
  found_stats = checkpoint.batch_stats
  _check_match(checkpoint, "parameter", expected, loaded)
  _check_match(checkpoint, "batch statistic", fresh_stats, found_stats)
  filled = {k: loaded.get(k, v) for k, v in fresh.items()}
  result = {
    **variables,
    "params": traverse_util.unflatten_dict(filled, sep="/"),
  }
  if fresh_stats:
    stats = traverse_util.unflatten_dict(found_stats, sep="/")
    result["batch_stats"] = stats
  return result, _report(checkpoint, loaded, new_head)


def load_network(
  name: str, path: str | os.PathLike, *, use_ema: bool = True
) -> tuple[Classifier, dict[str, Any], str]:
  """Build the network of a checkpoint, with as many classes as it has.

  Args:
    name: Name of the network, see `create_model`.
    path: See `read_checkpoint`.
    use_ema: See `read_checkpoint`.

  Returns:
    The network, its variables and a line that reports what was loaded.

  Raises:
    OSError: The file cannot be read.
    ValueError: The name is unknown, or the file not a checkpoint of it.
  """
  checkpoint = read_checkpoint(path, use_ema=use_ema)
  # Without a linear layer any number works: other names are missing anyway.
  model = create_model(name, checkpoint.num_classes() or 1)
  # Shapes of parameters do not depend on the size of images: small is fast.
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  keys = {"params": jax.random.key(0)}
  shapes = jax.eval_shape(lambda x: model.init(keys, x, train=False), image)
  return model, *load_pretrained(checkpoint, shapes)


def to_bytes(variables: Variables) -> bytes:
  """Return the content of a file that `read_checkpoint` reads.

  Args:
    variables: `{"params", "batch_stats"}` of any network.
  """
  tree = {k: variables.get(k, {}) for k in ("params", "batch_stats")}
  return serialization.msgpack_serialize(serialization.to_state_dict(tree))


# What users have in place of a Flax checkpoint, by its first bytes.
_OTHER_FORMATS = {
  b"PK\x03\x04": "a zip archive, as PyTorch and NumPy write",
  b"\x80\x02": "a pickle, as older versions of PyTorch write",
  b"\x89HDF": "an HDF5 file, as Keras writes",
  b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches it)",
  b"<": "a web page",
}
_READABLE = (
  "Give an official EfficientNet checkpoint or a file that `python -m "
  "sam_jax.convert` wrote; config.pretrained also takes the workdir of a run."
)


def _unpack(path: str | os.PathLike) -> Any:
  """Return the tree of a msgpack file.

  Raises:
    OSError: The file cannot be read.
    ValueError: It is a directory, truncated, or of another format.
  """
  from sam_jax import paths  # not needed to build networks

  file = paths.resolve(path)
  if file.is_dir():
    inside = sorted(path.name for path in file.iterdir() if path.is_file())
    found = [name for name in inside if name.startswith("checkpoint_")]
    raise ValueError(
      f"{file} is a directory; give the checkpoint file in it, {found[-1]}."
      if found
      else f"{file} is a directory without a file checkpoint_0. {_READABLE}"
    )
  data = file.read_bytes()
  try:
    return serialization.msgpack_restore(data)
  # Damaged bytes may decode to anything, and then raise any exception.
  except Exception as error:
    if other := _other_format(data):
      raise ValueError(f"{file} is {other}. {_READABLE}") from error
    truncated = not data or "incomplete" in str(error)
    reason = "is truncated" if truncated else "is not a Flax checkpoint"
    remedy = "Fetch it again and compare its size with the original's."
    raise ValueError(
      f"{file} {reason} ({len(data)} bytes; {error}). "
      f"{remedy if truncated else _READABLE}"
    ) from error


def _other_format(data: bytes) -> str | None:
  """Return the format of a file of another program, if it is known."""
  if data[8:10] == b'{"':  # after the length of this header
    return "a safetensors file"
  return next(
    (text for start, text in _OTHER_FORMATS.items() if data.startswith(start)),
    None,
  )


def _find_model(tree: Any, use_ema: bool) -> tuple[Any, Any, str]:
  """Return parameters, batch statistics and kind of a file.

  Raises:
    KeyError: The layout is unknown.
  """
  if "batch_stats" in tree:
    return tree["params"], tree["batch_stats"], "converted file"
  if "optimizer" not in tree:
    return tree["0"]["params"], tree["1"], "official checkpoint"
  params, state = tree["optimizer"]["target"]["params"], tree["model_state"]
  if "1" not in state:
    return params, state, "official training checkpoint"
  if use_ema:
    average = state["1"]["param_ema"]
    kind = "official training checkpoint, moving averages"
    return average["0"]["params"], average["1"], kind
  kind = "official training checkpoint, not its moving averages"
  return params, state["0"], kind


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  flat = traverse_util.flatten_dict(tree, sep="/")
  # Batch statistics are keyed by '/module/path' in official files.
  return {name.lstrip("/"): value for name, value in flat.items()}


def _as_float32(arrays: Mapping[str, Any]) -> FlatArrays:
  return {name: np.asarray(v, np.float32) for name, v in arrays.items()}


def _unknown_layout(path: str | os.PathLike, tree: Any) -> ValueError:
  keys = sorted(map(str, tree))[:8] if isinstance(tree, dict) else None
  found = f"top-level keys {keys}" if keys else f"a {type(tree).__name__}"
  return ValueError(
    f"{path} is not a checkpoint of a known layout: it holds {found}, not "
    f"(params, state), an official training state or a converted file. "
    f"{_READABLE}"
  )


def _is_head(name: str) -> bool:
  layer = name.split("/")[-2:-1]
  return layer == ["dense"] or (bool(layer) and layer[0].startswith("Dense_"))


def _resized_head(
  fresh: Mapping[str, Any], loaded: FlatArrays
) -> dict[str, Any]:
  """Return the linear layer's parameters if only its outputs differ."""
  resized = [
    name
    for name, value in fresh.items()
    if _is_head(name)
    and name in loaded
    and value.shape[:-1] == loaded[name].shape[:-1]
    and value.shape != loaded[name].shape
  ]
  layers = {name.rpartition("/")[0] for name in resized}
  return {n: v for n, v in fresh.items() if n.rpartition("/")[0] in layers}


def _check_match(
  checkpoint: Checkpoint,
  what: str,
  expected: Mapping[str, Any],
  found: FlatArrays,
) -> None:
  """Compare names and shapes of arrays.

  Raises:
    ValueError: They differ; the message has the first differences.
  """
  missing = sorted(set(expected) - set(found))
  surplus = sorted(set(found) - set(expected))
  different = [
    f"{name!r} has shape {found[name].shape}, not {tuple(expected[name].shape)}"
    for name in sorted(set(expected) & set(found))
    if tuple(expected[name].shape) != found[name].shape
  ]
  problems = []
  if missing:
    problems.append(
      f"lacks {len(missing)} of the network's {len(expected)} {what} arrays"
      f" ({_first(map(repr, missing))})"
    )
  if surplus:
    problems.append(
      f"has {len(surplus)} {what} arrays that the network lacks"
      f" ({_first(map(repr, surplus))})"
    )
  if different:
    problems.append(
      f"has {len(different)} {what} arrays of another shape"
      f" ({_first(different)})"
    )
  if problems:
    raise ValueError(
      f"{checkpoint.path} ({checkpoint.kind}) {' and '.join(problems)}. Use the"
      " network that it was made from, or another checkpoint."
    )


def _first(names: Iterable[str]) -> str:
  """Return the first three of some names."""
  first = list(itertools.islice(names, 4))
  return ", ".join([*first[:3], "..."] if len(first) > 3 else first)


def _report(
  checkpoint: Checkpoint, loaded: FlatArrays, new_head: Mapping[str, Any]
) -> str:
  values = sum(value.size for value in loaded.values())
  line = (
    f"Loaded {len(loaded)} parameter arrays ({values:,} values) and "
    f"{len(checkpoint.batch_stats)} batch statistics from "
    f"{checkpoint.path} ({checkpoint.kind})"
  )
  if not new_head:
    return f"{line}, the head of {checkpoint.num_classes()} classes included."
  name, value = next(iter(new_head.items()))
  return (
    f"{line}; {', '.join(sorted(new_head))} newly initialized for "
    f"{value.shape[-1]} classes instead of {checkpoint.params[name].shape[-1]}."
  )
