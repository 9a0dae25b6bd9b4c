"""Weights of timm's `tf_efficientnet_*`.

Names: `blocks.STAGE.NUMBER.conv_dw.weight` (timm/models/efficientnet.py). Other
EfficientNets of timm have the same names and shapes, but PyTorch's padding and
epsilon, so that the network here would compute something else with them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from sam_jax.pretrained.checkpoint import Checkpoint, CheckpointError
from sam_jax.pretrained.efficientnet_names import (
  Naming,
  parse_torch_name,
  translate,
)

_DROPPED = ".num_batches_tracked"
_SQUEEZE = {"se.conv_reduce": "reduce", "se.conv_expand": "restore"}


NAMING = Naming(
  library="timm",
  parse=parse_torch_name,
  stem_and_head={
    "conv_stem": "stem_conv",
    "bn1": "stem_norm",
    "conv_head": "head_conv",
    "bn2": "head_norm",
    "classifier": "dense",
  },
  plain={
    "conv_dw": "depthwise_conv",
    "bn1": "depthwise_norm",
    "conv_pw": "project_conv",
    "bn2": "project_norm",
    **_SQUEEZE,
  },
  expanding={
    "conv_pw": "expand_conv",
    "bn1": "expand_norm",
    "conv_dw": "depthwise_conv",
    "bn2": "depthwise_norm",
    "conv_pwl": "project_conv",
    "bn3": "project_norm",
    **_SQUEEZE,
  },
  expansion="conv_pwl",
  has_torch_axes=True,
)


def read(
  names: Iterable[str],
  get: Callable[[str], np.ndarray],
  config: Mapping[str, Any],
  path: str,
) -> Checkpoint:
  """Read the arrays of a network of timm.

  Args:
    names: All arrays of the file.
    get: Returns an array by its name.
    config: The config.json of the Hugging Face hub; {} if there is none.
    path: See `Checkpoint`.

  Raises:
    CheckpointError: It is not a `tf_efficientnet_*`.
  """
  network = str(config.get("architecture", ""))
  if network and not network.startswith("tf_efficientnet_"):
    raise CheckpointError(
      f"{path} is timm's {network}, as the config.json next to it says. Only"
      " tf_efficientnet_* compute what the networks here do; give one of them."
    )
  kept = [name for name in names if not name.endswith(_DROPPED)]
  kind = f"timm's {network or 'tf_efficientnet_*'}"
  checkpoint = translate(NAMING, kept, get, path, kind)
  return checkpoint._replace(preprocessing=_preprocessing(config))


def _preprocessing(config: Mapping[str, Any]) -> str:
  """Return a statement about the images that a network was trained on."""
  found = config.get("pretrained_cfg", {})
  if "mean" not in found:
    return (
      "No config.json next to it says that it is a tf_efficientnet_*: another"
      " EfficientNet of timm would have other padding."
    )
  remedy = ""
  if set(found["mean"]) == {0.5}:  # AdvProp
    remedy = " Set config.dataset.normalization = 'symmetric'."
  return (
    f"It was trained on images of {found.get('input_size', '?')[-1]} pixels of"
    f" mean {found['mean']} and std {found.get('std')}"
    f" ({found.get('interpolation')}, center crop {found.get('crop_pct')})."
    f"{remedy}"
  )
