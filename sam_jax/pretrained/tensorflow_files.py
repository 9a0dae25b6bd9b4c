"""TensorFlow checkpoints of the EfficientNet and NoisyStudent release.

Names: `efficientnet-b0/blocks_3/tpu_batch_normalization_1/gamma`, and the
moving average of each under `.../ExponentialMovingAverage` (tensorflow/tpu,
models/official/efficientnet).
"""

import pathlib
import re
from collections.abc import Iterable

from sam_jax.pretrained.checkpoint import (
  UNSTATED,
  Checkpoint,
  CheckpointError,
)
from sam_jax.pretrained.efficientnet_names import ArrayName, Naming, translate

_AVERAGE = "/ExponentialMovingAverage"
# Variables of the training: its step, and slots of its optimizers.
_DROPPED = re.compile(
  r"(^|/)(global_step|RMSProp(_\d+)?|Momentum|Adam(_\d+)?)$"
)
_BLOCK = re.compile(r"blocks_(\d+)/")
# Old releases of the code had no normalization over the cores of a TPU.
_NORM = re.compile(r"(^|/)tpu_batch_normalization")
_SQUEEZE = {"se/conv2d": "reduce", "se/conv2d_1": "restore"}


def parse(name: str) -> ArrayName | None:
  """Split the name of a variable, without its moving average's suffix."""
  # The first part is the name of the network.
  layer, _, leaf = name.partition("/")[2].rpartition("/")
  layer = _NORM.sub(r"\1batch_normalization", layer)
  block = _BLOCK.match(layer)
  if not block:
    return ArrayName(layer, leaf)
  return ArrayName(layer[block.end() :], leaf, (0, int(block[1])))


NAMING = Naming(
  library="TensorFlow's release",
  parse=parse,
  stem_and_head={
    "stem/conv2d": "stem_conv",
    "stem/batch_normalization": "stem_norm",
    "head/conv2d": "head_conv",
    "head/batch_normalization": "head_norm",
    "head/dense": "dense",
  },
  plain={
    "depthwise_conv2d": "depthwise_conv",
    "batch_normalization": "depthwise_norm",
    "conv2d": "project_conv",
    "batch_normalization_1": "project_norm",
    **_SQUEEZE,
  },
  expanding={
    "conv2d": "expand_conv",
    "batch_normalization": "expand_norm",
    "depthwise_conv2d": "depthwise_conv",
    "batch_normalization_1": "depthwise_norm",
    "conv2d_1": "project_conv",
    "batch_normalization_2": "project_norm",
    **_SQUEEZE,
  },
  expansion="conv2d_1",
)


def read(index: pathlib.Path, path: str, *, use_ema: bool) -> Checkpoint:
  """Read a checkpoint with TensorFlow's reader.

  Args:
    index: Its index, local; the data are next to it.
    path: Path that the user gave, for messages.
    use_ema: Take the moving averages if it has them.

  Raises:
    CheckpointError: It is not of an EfficientNet.
  """
  if index.suffix != ".index":
    raise CheckpointError(
      f"{path} is the index of a TensorFlow checkpoint. Its reader needs the"
      " original name, such as model.ckpt.index, next to the data."
    )
  import tensorflow as tf

  reader = tf.train.load_checkpoint(str(index.with_suffix("")))
  names, has_averages = select(reader.get_variable_to_shape_map(), use_ema)
  suffix = _AVERAGE if has_averages and use_ema else ""
  network = next(iter(names), "").partition("/")[0]
  kind = f"TensorFlow's {network}"
  if has_averages:
    kind += ", moving averages" if use_ema else ", not its moving averages"
  checkpoint = translate(
    NAMING, names, lambda name: reader.get_tensor(name + suffix), path, kind
  )
  return checkpoint._replace(preprocessing=UNSTATED)


def select(variables: Iterable[str], use_ema: bool) -> tuple[list[str], bool]:
  """Select the variables of the network to read.

  Args:
    variables: All variables of a checkpoint.
    use_ema: Select those that have a moving average, if any has one.

  Returns:
    Their names, without the suffix of averages, and True if there are averages.
  """
  averages = [n.removesuffix(_AVERAGE) for n in variables if _AVERAGE in n]
  if averages and use_ema:
    return sorted(averages), True
  names = [n for n in variables if _AVERAGE not in n and not _DROPPED.search(n)]
  return sorted(names), bool(averages)
