"""Write a small EfficientNet with random weights as timm's are published.

python -m scripts.timm_weights DIR

DIR/model.safetensors has the names and the axes of timm's arrays, and
DIR/config.json is that of the Hugging Face hub. The network is
`efficientnet_tiny`, the first stages of b0 with a narrow head, which nobody has
published. Its weights are random, since a checkpoint can't be fetched offline.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from sam_jax import create_model
from sam_jax.config import cli
from sam_jax.pretrained.efficientnet_names import our_names
from sam_jax.pretrained.timm_files import NAMING

MODEL = "efficientnet_tiny"
_BLOCKS = (1, 2, 2)  # of each stage
_CLASSES = 10
# Axes of our kernels in PyTorch's.
_AXES = {
  ("depthwise_kernel", 4): (2, 3, 0, 1),
  ("kernel", 4): (3, 2, 0, 1),
  ("kernel", 2): (1, 0),
}


def write(directory: pathlib.Path, seed: int = 0) -> None:
  """Write directory/model.safetensors and directory/config.json."""
  network = create_model(MODEL, _CLASSES)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  init = functools.partial(network.init, jax.random.key(0), train=False)
  shapes = dict[str, Any]()
  for group in jax.eval_shape(init, image).values():
    shapes |= traverse_util.flatten_dict(group, sep="/")
  random = np.random.default_rng(seed)
  arrays = {
    name: _draw(name, shapes[name].shape, random) for name in sorted(shapes)
  }
  names = our_names(NAMING, _timm_names(), MODEL)
  directory.mkdir(parents=True, exist_ok=True)
  save_file(
    {name: _as_in_pytorch(ours, arrays[ours]) for name, ours in names.items()},
    directory / "model.safetensors",
  )
  about = {
    "architecture": "tf_efficientnet_tiny",
    "num_classes": _CLASSES,
    "pretrained_cfg": {
      "input_size": [3, 32, 32],
      "mean": [0.485, 0.456, 0.406],
      "std": [0.229, 0.224, 0.225],
      "interpolation": "bicubic",
      "crop_pct": 1.0,
    },
  }
  (directory / "config.json").write_text(json.dumps(about, indent=2))


def _timm_names() -> Iterator[str]:
  """Yield the names of all arrays, such as `blocks.0.0.conv_dw.weight`."""
  layers = [*NAMING.stem_and_head]
  for stage, count in enumerate(_BLOCKS):
    for number in range(count):
      inside = NAMING.expanding if stage else NAMING.plain
      layers += [f"blocks.{stage}.{number}.{layer}" for layer in inside]
  for layer in layers:
    leaves = ["weight"]
    if layer.rpartition(".")[2].startswith("bn"):
      leaves += ["bias", "running_mean", "running_var"]
    elif ".se." in layer or layer == "classifier":
      leaves += ["bias"]
    yield from (f"{layer}.{leaf}" for leaf in leaves)


def _draw(
  name: str, shape: tuple[int, ...], random: np.random.Generator
) -> np.ndarray:
  """Return an array at initialization, without compiling the network's own."""
  if name.endswith(("/scale", "/var")):
    return np.ones(shape, np.float32)
  if len(shape) == 1:
    return np.zeros(shape, np.float32)
  is_depthwise = name.endswith("/depthwise_kernel")
  fan_out = np.prod(shape[:2] if is_depthwise else (*shape[:-2], shape[-1]))
  return random.normal(0, np.sqrt(2 / fan_out), shape).astype(np.float32)


def _as_in_pytorch(name: str, array: np.ndarray) -> np.ndarray:
  axes = _AXES.get((name.rpartition("/")[2], array.ndim))
  return np.ascontiguousarray(array.transpose(axes) if axes else array)


if __name__ == "__main__":
  if len(sys.argv) != 2:
    cli.refuse("Name the directory: python -m scripts.timm_weights DIR")
  write(pathlib.Path(sys.argv[1]))
  print(f"Wrote {MODEL} in timm's format to {sys.argv[1]}")
