"""Msgpack files of Flax: official checkpoints, and those that we write.

Three layouts of the official release (google-research/sam) are known, in
addition to our own `{"params", "batch_stats"}`:

* a model: `{"0": {"params"}, "1": {"/module/path": {"mean", "var"}}}`;
* a training run: `{"optimizer": {"target": {"params"}}, "model_state", ...}`,
  where `model_state` maps module paths as above;
* a training run with an exponential moving average, where `model_state` is
  `{"0": <module paths>, "1": {"param_ema": <a model>}}`.

Parameter names need no translation: see `sam_jax.models.layers`.
"""

from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
from flax import serialization

from sam_jax.pretrained.checkpoint import (
  READABLE,
  Checkpoint,
  CheckpointError,
  Variables,
  checkpoint_of,
)


def read(data: bytes, path: str, *, use_ema: bool) -> Checkpoint:
  """Read the content of a file.

  Args:
    data: The content.
    path: Path of the file, for messages.
    use_ema: Take the moving averages if the file has them.

  Raises:
    CheckpointError: It is truncated, or not a known layout.
  """
  tree = _unpack(data, path)
  try:
    params, stats, kind = _find_model(tree, use_ema)
    variables = {"params": params, "batch_stats": stats}
    return checkpoint_of(variables, kind, path)
  except (KeyError, TypeError, AttributeError) as error:
    keys = sorted(map(str, tree))[:8] if isinstance(tree, dict) else None
    found = f"top-level keys {keys}" if keys else f"a {type(tree).__name__}"
    raise CheckpointError(
      f"{path} is not a checkpoint of a known layout: it holds {found}, not "
      "(params, state), an official training state or a converted file. "
      f"{READABLE}"
    ) from error


def serialize(variables: Variables) -> Iterator[bytes]:
  """Yield the parts of a file that `read` reads, one array at a time.

  The parts together are `flax.serialization.msgpack_serialize` of the tree,
  which would hold two more copies of it in memory.

  Args:
    variables: `{"params", "batch_stats"}` of any network, NumPy arrays.
  """
  tree = {k: variables.get(k, {}) for k in ("params", "batch_stats")}
  yield from _serialize(serialization.to_state_dict(tree))


def _serialize(tree: Any) -> Iterator[bytes]:
  if not isinstance(tree, dict):
    yield serialization.msgpack_serialize(np.asarray(tree))
    return
  packer = msgpack.Packer()
  yield packer.pack_map_header(len(tree))
  for name, value in sorted(tree.items()):  # the order of Flax
    yield packer.pack(name)
    yield from _serialize(value)


def _unpack(data: bytes, path: str) -> Any:
  """Return the tree of a msgpack file.

  Raises:
    CheckpointError: It is truncated or of another format.
  """
  try:
    return serialization.msgpack_restore(data)
  # Damaged bytes may decode to anything, and then raise any exception.
  except Exception as error:
    is_truncated = not data or "incomplete" in str(error)
    reason = "is truncated" if is_truncated else "is not a Flax checkpoint"
    remedy = "Fetch it again and compare its size with the original's."
    raise CheckpointError(
      f"{path} {reason} ({len(data)} bytes; {error}). "
      f"{remedy if is_truncated else READABLE}"
    ) from error


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
