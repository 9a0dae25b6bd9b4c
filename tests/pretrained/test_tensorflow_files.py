"""TensorFlow checkpoints, written by TensorFlow, with names of the release."""

import re

import numpy as np
import pytest

from sam_jax.pretrained.checkpoint import CheckpointError
from sam_jax.pretrained.fitting import load_network
from sam_jax.pretrained.formats import read_checkpoint
from tests.bucket import ROOT
from tests.pretrained import sources

AVERAGE = "/ExponentialMovingAverage"

# Names of the release's code (tensorflow/tpu) for the layers of ours.
LAYERS = {
  r"Stem_0/conv2d/kernel": "stem/conv2d/kernel",
  r"Head_6/conv2d/kernel": "head/conv2d/kernel",
  r"Head_6/dense/(\w+)": r"head/dense/\1",
  r"Stem_0/batch_normalization/(\w+)": r"stem/tpu_batch_normalization/\1",
  r"Head_6/batch_normalization/(\w+)": r"head/tpu_batch_normalization/\1",
  r"(blocks_\d)/batch_normalization_0/(\w+)": (
    r"\1/tpu_batch_normalization/\2"
  ),
  r"(blocks_\d)/batch_normalization_([12])/(\w+)": (
    r"\1/tpu_batch_normalization_\2/\3"
  ),
  r"(blocks_\d)/SqueezeExcite_0/reduce_conv2d_0/(\w+)": r"\1/se/conv2d/\2",
  r"(blocks_\d)/SqueezeExcite_0/expand_conv2d_1/(\w+)": r"\1/se/conv2d_1/\2",
  r"(blocks_\d)/(?:expand|project)_conv2d_0/kernel": r"\1/conv2d/kernel",
  r"(blocks_\d)/project_conv2d_1/kernel": r"\1/conv2d_1/kernel",
  r"(blocks_\d)/(depthwise_conv2d/depthwise_kernel)": r"\1/\2",
}
LEAVES = {
  "scale": "gamma",
  "bias": "beta",
  "mean": "moving_mean",
  "var": "moving_variance",
}


def released_name(name):
  """Return the name of an array of ours in the release."""
  name = re.sub(r"MBConvBlock_(\d)", lambda m: f"blocks_{int(m[1]) - 1}", name)
  (found,) = {
    re.sub(pattern, new, name)
    for pattern, new in LAYERS.items()
    if re.fullmatch(pattern, name)
  }
  layer, _, leaf = found.rpartition("/")
  if "batch_normalization" in layer:
    leaf = LEAVES[leaf]
  return f"efficientnet-tiny/{layer}/{leaf}"


def variables():
  """Return the variables of a training in the release's code."""
  arrays = {released_name(n): a for n, a in sources.tiny_arrays().items()}
  averages = {f"{name}{AVERAGE}": a + 1 for name, a in arrays.items()}
  trained = {n: a for n, a in arrays.items() if "moving" not in n}
  slots = {f"{name}/RMSProp": a for name, a in trained.items()}
  slots |= {f"{name}/RMSProp_1": a for name, a in trained.items()}
  return {**arrays, **averages, **slots, "global_step": np.int64(7)}


def write(prefix, arrays):
  """Write a checkpoint as tf.train.Saver does."""
  import tensorflow as tf

  prefix.parent.mkdir(exist_ok=True)
  names = sorted(arrays)
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=names,
    shape_and_slices=[""] * len(names),
    tensors=[arrays[name] for name in names],
  )
  return prefix


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  return write(tmp_path_factory.mktemp("tf") / "model.ckpt", variables())


def test_names_are_those_of_the_release():
  names = set(variables())
  for known in (
    "efficientnet-tiny/stem/conv2d/kernel/ExponentialMovingAverage",
    "efficientnet-tiny/blocks_0/conv2d/kernel",
    "efficientnet-tiny/blocks_0/tpu_batch_normalization_1/gamma",
    "efficientnet-tiny/blocks_1/conv2d_1/kernel/RMSProp",
    "efficientnet-tiny/blocks_1/tpu_batch_normalization_2/moving_variance",
    "efficientnet-tiny/blocks_1/se/conv2d_1/bias",
    "efficientnet-tiny/blocks_1/depthwise_conv2d/depthwise_kernel",
    "efficientnet-tiny/head/dense/bias",
  ):
    assert known in names


@pytest.mark.parametrize("use_ema", [True, False])
@pytest.mark.parametrize(
  "name", ["model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"]
)
def test_every_path_to_a_checkpoint(checkpoint, name, use_ema):
  path = checkpoint.parent / name
  found = read_checkpoint(path, use_ema=use_ema)
  for ours, value in sources.tiny_arrays().items():
    group = found.batch_stats if ours.endswith(("/mean", "/var")) else found[0]
    np.testing.assert_array_equal(group[ours], value + use_ema, ours)
  _, _, report = load_network("efficientnet_tiny", found)
  averages = "moving averages" if use_ema else "not its moving averages"
  assert f"{path} (TensorFlow's efficientnet-tiny, {averages})" in report


def test_directory_of_a_checkpoint(checkpoint, tmp_path):
  assert read_checkpoint(checkpoint.parent).kind.endswith("moving averages")
  for step in (1, 2):
    (tmp_path / f"model.ckpt-{step}.index").touch()
  with pytest.raises(CheckpointError, match=r"file in it, model.ckpt-2.index"):
    read_checkpoint(tmp_path)


def test_names_of_old_releases_without_averages(tmp_path):
  arrays = {
    released_name(name).replace("/tpu_", "/"): array
    for name, array in sources.tiny_arrays().items()
  }
  path = write(tmp_path / "model", arrays)
  _, _, report = load_network("efficientnet_tiny", read_checkpoint(path))
  assert "(TensorFlow's efficientnet-tiny)" in report


def test_missing_average_is_named(tmp_path):
  arrays = variables()
  del arrays[f"efficientnet-tiny/head/dense/bias{AVERAGE}"]
  path = write(tmp_path / "model", arrays)
  with pytest.raises(CheckpointError, match=r"lacks 1 .*'Head_6/dense/bias'"):
    load_network("efficientnet_tiny", read_checkpoint(path))


def test_other_networks_and_damage_are_one_line(checkpoint, tmp_path):
  path = write(tmp_path / "a", {"resnet/conv1/kernel": np.zeros(3, np.float32)})
  with pytest.raises(CheckpointError, match="no EfficientNet of TensorFlow's"):
    read_checkpoint(path)
  index = checkpoint.with_name("model.ckpt.index").read_bytes()
  (tmp_path / "b.index").write_bytes(index)
  (tmp_path / "b").write_bytes(index)
  with pytest.raises(
    CheckpointError, match=r"such as model\.ckpt\.index, next"
  ):
    read_checkpoint(tmp_path / "b")
  with pytest.raises(CheckpointError, match="a damaged TensorFlow file") as e:
    read_checkpoint(tmp_path / "b.index")  # without its data
  assert "\n" not in str(e.value)


def test_checkpoint_in_a_bucket(checkpoint, bucket):
  for file in checkpoint.parent.iterdir():
    bucket.write(f"tf/{file.name}", file.read_bytes())
  local = read_checkpoint(checkpoint)
  for path in (f"{ROOT}/tf", f"{ROOT}/tf/model.ckpt"):
    found = read_checkpoint(path)
    assert found.path == path and found.kind == local.kind
    for first, second in zip(found[:2], local[:2], strict=True):
      assert first.keys() == second.keys()
      for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], name)
  bucket.write("a.safetensors", b"\5\0\0\0\0\0\0\0{}   ")
  with pytest.raises(CheckpointError, match=r"^gs://bucket/.*safetensors"):
    read_checkpoint(f"{ROOT}/a.safetensors")
