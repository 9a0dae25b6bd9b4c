"""Files of NumPy: ViTs and Mixers, and EfficientNets of efficientnet-jax.

Those of `transformer_files` have arrays named by their paths. The JAX ports
`tf_efficientnet_*` (rwightman/efficientnet-jax) have an array `names`, and the
others are named by their position in it. The names are PyTorch's:
`blocks.STAGE.NUMBER.bn_exp.running_mean`.
"""

import pathlib

import numpy as np

from sam_jax.pretrained import transformer_files
from sam_jax.pretrained.checkpoint import (
  READABLE,
  UNSTATED,
  Checkpoint,
  CheckpointError,
)
from sam_jax.pretrained.efficientnet_names import (
  Naming,
  parse_torch_name,
  translate,
)

_DEPTHWISE_AND_SQUEEZE = {
  "conv_dw": "depthwise_conv",
  "bn_dw": "depthwise_norm",
  "se.reduce": "reduce",
  "se.expand": "restore",
}
NAMING = Naming(
  library="efficientnet-jax",
  parse=parse_torch_name,
  stem_and_head={
    "stem.conv": "stem_conv",
    "stem.bn": "stem_norm",
    "head.conv_pw": "head_conv",
    "head.bn": "head_norm",
    "head.classifier": "dense",
  },
  plain={
    **_DEPTHWISE_AND_SQUEEZE,
    "conv_pw": "project_conv",
    "bn_pw": "project_norm",
  },
  expanding={
    **_DEPTHWISE_AND_SQUEEZE,
    "conv_exp": "expand_conv",
    "bn_exp": "expand_norm",
    "conv_pwl": "project_conv",
    "bn_pwl": "project_norm",
  },
  expansion="conv_exp",
  has_torch_axes=True,
)


def read(file: pathlib.Path, path: str) -> Checkpoint:
  """Read a .npz file; objects in it, which are pickles, are refused.

  Args:
    file: The file, local.
    path: Path that the user gave, for messages.

  Raises:
    CheckpointError: It is not of a known network.
  """
  with np.load(file, allow_pickle=False) as arrays:
    if transformer_files.is_known(arrays):
      return transformer_files.read(list(arrays), arrays.__getitem__, path)
    if "names" not in arrays:
      raise CheckpointError(
        f"{path} is a .npz file without the array 'embedding/kernel' or"
        " 'stem/kernel' that those of ViTs and Mixers have, and without the"
        f" array 'names' that those of efficientnet-jax have. {READABLE}"
      )
    keys = {str(name): str(i) for i, name in enumerate(arrays["names"])}
    checkpoint = translate(
      NAMING,
      keys,
      lambda name: arrays[keys[name]],
      path,
      "efficientnet-jax's tf_efficientnet_*",
    )
  return checkpoint._replace(preprocessing=UNSTATED)
