"""Export of a trained network: arrays as safetensors, its program as StableHLO.

Neither file needs this package, and neither holds code of Python.
"""

import json

import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from sam_jax.analysis.trained_run import TrainedRun
from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog
from sam_jax.datasets.crops import BORDER

PLATFORMS = ("cpu", "cuda", "tpu")

_SEPARATOR = "/"


def arrays(run: TrainedRun) -> dict[str, np.ndarray]:
  """Return the arrays of a network by name, such as "params/Dense_0/kernel"."""
  flat = flax.traverse_util.flatten_dict(run.variables, sep=_SEPARATOR)
  return {name: np.asarray(flat[name]) for name in sorted(flat)}


def description(run: TrainedRun) -> dict[str, str]:
  """Return what a user of an exported network must know, as texts."""
  height, width, _ = run.spec.shape_in_memory
  resizing = f"cut the center of aspect {width}:{height}, resize it (bicubic)"
  if run.spec.storage == catalog.STREAM:
    part = f"{height}/{height + BORDER}"
    resizing = (
      f"cut the center square of {part} of the shorter side, resize it (bicubic"
      " of TensorFlow 1)"
    )
  return {
    "format": "flax",
    "model": run.config.model.name,
    "dataset": run.spec.name,
    "step": str(run.step),
    "class_names": json.dumps(run.class_names),
    "images": json.dumps([height, width, run.spec.image_shape[2]]),
    "resizing": resizing,
    "mean": json.dumps(run.spec.mean),
    "std": json.dumps(run.spec.std),
  }


def to_safetensors(run: TrainedRun) -> bytes:
  """Return the arrays and the description of a network as a file."""
  from safetensors import numpy as safetensors

  return safetensors.save(arrays(run), description(run))


def to_stablehlo(run: TrainedRun) -> bytes:
  """Return the network with its normalization as a serialized program.

  `jax.export.deserialize(data).call(arrays, images)` returns float32 logits
  [N, classes] on any of `PLATFORMS`, for `arrays` as in `arrays(run)` and
  `images` uint8 [N, H, W, C] of the size in `description(run)["images"]`.

  Raises:
    ConfigError: The network can't be exported.
  """

  def program(tensors, images):
    variables = flax.traverse_util.unflatten_dict(tensors, sep=_SEPARATOR)
    variables.setdefault("batch_stats", {})
    # One image at a time: a network may ask for the number of its images, which
    # is unknown here.
    return jax.vmap(lambda image: run.logits(variables, image[None])[0])(images)

  shapes = {
    name: jax.ShapeDtypeStruct(array.shape, array.dtype)
    for name, array in arrays(run).items()
  }
  (count,) = jax.export.symbolic_shape("n")
  images = jax.ShapeDtypeStruct((count, *run.spec.shape_in_memory), jnp.uint8)
  try:
    export = jax.export.export(jax.jit(program), platforms=PLATFORMS)
    return bytes(export(shapes, images).serialize())
  except Exception as error:  # networks are programs of anybody
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ConfigError(
      f"--export=stablehlo: {run.config.model.name} can't be exported: {cause}"
    ) from error
