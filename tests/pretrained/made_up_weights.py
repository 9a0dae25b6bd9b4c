"""Weights that a test and the script that recorded its golden file both make.

NumPy alone is needed, because PyTorch, Keras and JAX are never in one process.
"""

import zlib

import numpy as np

GAIN = 1.38


def make_array(name, shape):
  """Return the float32 array of a name, the same on every machine."""
  random = np.random.RandomState(zlib.crc32(name.encode()))  # stable for ever
  if "var" in name.rpartition(".")[2] or name.endswith("variance"):
    return random.uniform(0.5, 1.5, shape).astype(np.float32)
  values = random.standard_normal(shape)
  if len(shape) > 1:
    # Inputs of an output: PyTorch has the outputs first, TensorFlow last.
    is_torch = name.endswith(".weight")
    inputs = shape[1:] if is_torch else shape[:-1]
    if not is_torch and "dwconv" in name:
      inputs = shape[:2]
    # Large enough for images to differ in the logits.
    return (GAIN * values / np.sqrt(np.prod(inputs))).astype(np.float32)
  center = 1.0 if is_scale(name) else 0.0
  return (center + 0.2 * values).astype(np.float32)


def is_scale(name):
  """Return True for the factors of a normalization."""
  ends = ("bn1.weight", "bn2.weight", "bn3.weight", "/gamma", "/scale")
  return name.endswith(ends)


def make_images(count, size):
  """Return float32 images [count, size, size, 3] in [0, 255]."""
  random = np.random.RandomState(size)
  coarse = random.uniform(0, 255, (count, 8, 8, 3))
  index = np.arange(size) * 8 // size
  noise = random.uniform(-20, 20, (count, size, size, 3))
  images = coarse[:, index][:, :, index] + noise
  return np.clip(images, 0, 255).astype(np.float32)
