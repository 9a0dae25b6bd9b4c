"""Safetensors: weights of timm, and those that `sam_jax.evaluate` exports."""

import json
import pathlib
from typing import Any

import numpy as np

from sam_jax.pretrained import timm_files
from sam_jax.pretrained.checkpoint import IMAGE_SHAPE, Checkpoint

_PARAMS, _STATS = "params/", "batch_stats/"


def read(file: pathlib.Path, path: str) -> Checkpoint:
  """Read a file.

  Args:
    file: The file, local. A `config.json` next to it, as on the Hugging Face
      hub, says which network it is.
    path: Path that the user gave, for messages.

  Raises:
    CheckpointError: It is neither of timm's `tf_efficientnet_*` nor exported.
  """
  from safetensors import safe_open

  with safe_open(file, framework="numpy") as tensors:
    names = list(tensors.keys())
    if any(name.startswith(_PARAMS) for name in names):
      return _exported(tensors, names, path)
    config = _read_config(file.with_name("config.json"))
    return timm_files.read(names, tensors.get_tensor, config, path)


def _exported(tensors: Any, names: list[str], path: str) -> Checkpoint:
  """Return the arrays that `sam_jax.evaluate --export=safetensors` wrote."""

  def group(prefix: str) -> dict[str, np.ndarray]:
    return {
      name.removeprefix(prefix): np.asarray(
        tensors.get_tensor(name), np.float32
      )
      for name in names
      if name.startswith(prefix)
    }

  about = tensors.metadata() or {}
  kind = f"exported {about.get('model')} of {about.get('dataset')}"
  statement = f"It expects mean {about.get('mean')} and std {about.get('std')}."
  shape = IMAGE_SHAPE
  if "images" in about:
    shape = tuple(json.loads(about["images"]))
  return Checkpoint(
    *(group(_PARAMS), group(_STATS), kind, path),
    preprocessing=statement,
    image_shape=shape,
  )


def _read_config(file: pathlib.Path) -> dict[str, Any]:
  """Return what a config.json of the Hugging Face hub says, if there is one."""
  try:
    config = json.loads(file.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return config if isinstance(config, dict) else {}
