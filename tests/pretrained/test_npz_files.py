"""The .npz files of the JAX ports."""

import re

import numpy as np
import pytest

from sam_jax.pretrained.checkpoint import CheckpointError
from sam_jax.pretrained.fitting import load_network
from sam_jax.pretrained.formats import read_checkpoint
from tests.pretrained import sources

# Names of efficientnet-jax for the layers of timm, in this order.
IN_BLOCKS = {
  r"conv_pw\.": {"plain": "conv_pw.", "expanding": "conv_exp."},
  r"bn1\.": {"plain": "bn_dw.", "expanding": "bn_exp."},
  r"bn2\.": {"plain": "bn_pw.", "expanding": "bn_dw."},
  r"bn3\.": {"expanding": "bn_pwl."},
  r"se\.conv_": {"plain": "se.", "expanding": "se."},
}
OUTSIDE = {
  "conv_stem.": "stem.conv.",
  "bn1.": "stem.bn.",
  "conv_head.": "head.conv_pw.",
  "bn2.": "head.bn.",
  "classifier.": "head.classifier.",
}


def ported_name(name):
  """Return the name of an array of timm in efficientnet-jax."""
  block = re.match(r"blocks\.\d\.\d\.", name)
  if not block:
    layer, _, leaf = name.rpartition(".")
    return f"{OUTSIDE[layer + '.']}{leaf}"
  kind = "plain" if name.startswith("blocks.0.") else "expanding"
  rest = name[block.end() :]
  for pattern, new in IN_BLOCKS.items():
    if re.match(pattern, rest):
      return block[0] + re.sub(pattern, new[kind], rest)
  return name


def write(path, arrays):
  names = list(arrays)
  values = {str(i): arrays[name] for i, name in enumerate(names)}
  with path.open("wb") as file:
    np.savez(file, names=np.array(names), **values)
  return path


def test_arrays_are_ours(tmp_path):
  arrays = {ported_name(n): a for n, a in sources.timm_arrays().items()}
  for known in (
    "stem.bn.running_mean",
    "blocks.0.0.bn_pw.weight",
    "blocks.1.0.conv_exp.weight",
    "blocks.1.0.bn_pwl.bias",
    "blocks.1.0.se.reduce.bias",
    "head.classifier.weight",
  ):
    assert known in arrays
  found = read_checkpoint(write(tmp_path / "port", arrays))
  for name, value in sources.tiny_arrays().items():
    group = found.batch_stats if name.endswith(("/mean", "/var")) else found[0]
    np.testing.assert_array_equal(group[name], value, name)
  _, _, report = load_network("efficientnet_tiny", found)
  assert "(efficientnet-jax's tf_efficientnet_*)" in report
  assert report.endswith("or to [-1, 1] if it is of AdvProp.")


class Evil:
  """An object whose pickle would write a file."""

  def __reduce__(self):
    return (open, ("/nonexistent/never", "w"))


def test_pickles_are_never_opened(tmp_path):
  with (tmp_path / "a.npz").open("wb") as file:
    np.savez(file, names=np.array([Evil()], object))
  with pytest.raises(
    CheckpointError, match=r"damaged zip file .*Object arrays"
  ):
    read_checkpoint(tmp_path / "a.npz")


def test_other_files_of_numpy_are_one_line(tmp_path):
  with (tmp_path / "a.npz").open("wb") as file:
    np.savez(file, images=np.zeros(3))
  with pytest.raises(CheckpointError, match="without the array 'names'"):
    read_checkpoint(tmp_path / "a.npz")
