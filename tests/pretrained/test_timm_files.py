"""Weights of timm: its own logits, its names, its config.json."""

import functools
import json
import sys

import jax
import numpy as np
import pytest

from sam_jax.models import create_model
from sam_jax.pretrained.checkpoint import CheckpointError
from sam_jax.pretrained.fitting import load_network, load_pretrained
from sam_jax.pretrained.formats import read_checkpoint
from tests.pretrained import sources
from tests.pretrained.made_up_weights import make_array, make_images

save_file = pytest.importorskip("safetensors.numpy").save_file


@pytest.mark.long  # compiles whole networks
@pytest.mark.parametrize(
  ("network", "size"), [("efficientnet_b0", 224), ("efficientnet_b2", 95)]
)
def test_logits_are_those_of_timm(network, size, tmp_path):
  shapes, logits = sources.golden(f"timm_tf_{network}_{size}")
  arrays = {name: make_array(name, shape) for name, shape in shapes.items()}
  counts = {"bn1.num_batches_tracked": np.zeros((), np.int64)}  # of PyTorch
  save_file(arrays | counts, tmp_path / "any name")
  model, variables, report = load_network(
    network, read_checkpoint(tmp_path / "any name")
  )
  assert "the head of 1000 classes included" in report
  assert "No config.json next to it says" in report
  evaluate = jax.jit(functools.partial(model.apply, train=False))
  actual = evaluate(variables, make_images(2, size) / 127.5 - 1)
  np.testing.assert_allclose(actual, logits, rtol=0, atol=1e-4)
  assert np.abs(logits[0] - logits[1]).max() > 0.1  # of two images


def write(directory, arrays, config=None):
  """Write a directory as on the Hugging Face hub."""
  directory.mkdir(exist_ok=True)
  save_file(arrays, directory / "model.safetensors")
  if config:
    (directory / "config.json").write_text(json.dumps(config))
  return directory


HUB = {
  "architecture": "tf_efficientnet_b0",
  "pretrained_cfg": {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "input_size": [3, 224, 224],
    "crop_pct": 0.875,
    "interpolation": "bicubic",
  },
}


def test_directory_of_the_hub(tmp_path):
  path = write(tmp_path / "hub", sources.timm_arrays(), HUB)
  checkpoint = read_checkpoint(path)
  assert {**checkpoint.params, **checkpoint.batch_stats}.keys() == (
    sources.tiny_arrays().keys()
  )
  for name, value in sources.tiny_arrays().items():
    stats = name.endswith(("/mean", "/var"))
    found = checkpoint.batch_stats if stats else checkpoint.params
    np.testing.assert_array_equal(found[name], value, name)
    assert found[name].flags.c_contiguous and found[name].dtype == np.float32
  _, _, report = load_network("efficientnet_tiny", checkpoint)
  assert f"{path} (timm's tf_efficientnet_b0)" in report
  assert report.endswith(
    "It was trained on images of 224 pixels of mean [0.5, 0.5, 0.5] and std"
    " [0.25, 0.25, 0.25] (bicubic, center crop 0.875). Set"
    " config.dataset.normalization = 'symmetric'."
  )


def test_head_of_another_number_of_classes_is_new(tmp_path):
  path = write(tmp_path / "hub", sources.timm_arrays())
  model = create_model("efficientnet_tiny", 3)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  init = functools.partial(model.init, jax.random.key(0), train=False)
  _, report = load_pretrained(
    read_checkpoint(path), jax.eval_shape(init, image)
  )
  assert "Head_6/dense/kernel newly initialized for 3 classes inst" in report


def test_networks_of_timm_with_other_padding_are_refused(tmp_path):
  path = write(tmp_path, sources.timm_arrays(), {"architecture": "resnet18"})
  with pytest.raises(CheckpointError, match=r"is timm's resnet18.*Only tf_eff"):
    read_checkpoint(path)


def without(*endings):
  arrays = sources.timm_arrays()
  return {n: a for n, a in arrays.items() if not n.endswith(endings)}


def with_other(name, array):
  return sources.timm_arrays() | {name: array}


DEPTHWISE = "blocks.1.1.conv_dw.weight"


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    (
      without(DEPTHWISE),
      "lacks 1 of the network's 70 parameter arrays"
      r" \('MBConvBlock_3/depthwise_conv2d/depthwise_kernel'\)",
    ),
    (
      without("blocks.0.0.bn1.running_var"),
      r"lacks 1 .*32 batch.*\('MBConvBlock_1/batch_normalization_0/var'\)",
    ),
    (
      with_other(DEPTHWISE, np.zeros((96, 1, 3, 5), np.float32)),
      r"depthwise_kernel' \(blocks\.1\.1\.conv_dw\.weight in the file\) has"
      r" shape \(3, 5, 96, 1\), not \(3, 3, 96, 1\)",
    ),
    (
      with_other("conv_head.bias", np.zeros(3, np.float32)),
      r"has 1 parameter .* lacks \('Head_6/conv2d/bias' \(conv_head\.bias in",
    ),
    (
      with_other("blocks.1.1.attn.q", np.zeros(3, np.float32)),
      r"1 array that no EfficientNet of timm has \('blocks\.1\.1\.attn\.q'\)",
    ),
    (
      {n: a for n, a in sources.timm_arrays().items() if "s.1.0." not in n},
      "lacks the block before number 1 of stage 1",
    ),
    (
      {"layer1.0.conv1.weight": np.zeros(3, np.float32)},
      "no EfficientNet of timm: its arrays are 'layer1.0.conv1.weight'. Give",
    ),
  ],
)
def test_other_architectures_are_one_line(arrays, message, tmp_path):
  path = write(tmp_path, arrays)
  with pytest.raises(CheckpointError, match=message) as error:
    load_network("efficientnet_tiny", read_checkpoint(path))
  assert str(error.value).startswith(str(path))
  assert "\n" not in str(error.value)


def test_damaged_files(tmp_path):
  (tmp_path / "file").write_bytes(b'\5\0\0\0\0\0\0\0{"a": 1}')
  with pytest.raises(CheckpointError, match="a damaged safetensors file"):
    read_checkpoint(tmp_path / "file")
  file = write(tmp_path, sources.timm_arrays()) / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-1000])
  with pytest.raises(CheckpointError, match=r"damaged safetensors .*Fetch it"):
    read_checkpoint(file)


def test_missing_library_is_one_line(tmp_path, monkeypatch):
  path = write(tmp_path, sources.timm_arrays())
  monkeypatch.setitem(sys.modules, "safetensors", None)
  with pytest.raises(CheckpointError, match=r"pip install 'sam-jax\[train\]'"):
    read_checkpoint(path)


def test_exported_network_can_be_a_start(tmp_path):
  groups = {
    f"{'batch_stats' if n.endswith(('/mean', '/var')) else 'params'}/{n}": a
    for n, a in sources.tiny_arrays().items()
  }
  about = {"model": "efficientnet_tiny", "dataset": "digits", "mean": "[0.5]"}
  save_file(groups, tmp_path / "network.safetensors", about)
  checkpoint = read_checkpoint(tmp_path / "network.safetensors")
  _, variables, report = load_network("efficientnet_tiny", checkpoint)
  jax.tree.map(
    np.testing.assert_array_equal, variables, sources.tiny_variables()
  )
  assert "(exported efficientnet_tiny of digits)" in report
  assert "It expects mean [0.5] and std" in report
