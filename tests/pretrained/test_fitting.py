"""Files of Flax, and the check of checkpoints."""

import copy
import functools
import zipfile

import jax
import numpy as np
import pytest
from flax import serialization

from sam_jax.models import create_model
from sam_jax.pretrained.checkpoint import CheckpointError
from sam_jax.pretrained.fitting import load_network, load_pretrained
from sam_jax.pretrained.flax_files import serialize
from sam_jax.pretrained.formats import read_checkpoint
from tests.models.golden_models import (
  GOLDEN,
  Golden,
  flattened,
  quick_variables,
)

OFFICIAL = GOLDEN / "ckpt_tiny" / "checkpoint_0"


@functools.cache
def fresh(name="efficientnet_tiny", classes=1000):
  model = create_model(name, classes)
  return model, quick_variables(model, np.zeros((1, 32, 32, 3), np.float32))


def official_tree():
  return serialization.msgpack_restore(OFFICIAL.read_bytes())


def write(path, tree):
  path.write_bytes(serialization.msgpack_serialize(tree))
  return path


def assert_equal(actual, expected):
  actual, expected = flattened(actual), flattened(expected)
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(actual[name], value, name)


def test_official_checkpoint_gives_the_official_logits():
  model, variables = fresh()
  loaded, report = load_pretrained(read_checkpoint(OFFICIAL), variables)
  golden = Golden("efficientnet_tiny")
  assert_equal(loaded, golden.variables())
  logits = jax.jit(functools.partial(model.apply, train=False))(
    loaded, golden["x"]
  )
  np.testing.assert_allclose(logits, golden["logits_eval"], atol=1e-5)
  assert "70 parameter arrays (94,930 values) and 32 batch statistics" in report
  assert str(OFFICIAL) in report and "head of 1000 classes included" in report


def test_head_is_replaced_when_the_number_of_classes_differs():
  _, variables = fresh(classes=10)
  loaded, report = load_pretrained(read_checkpoint(OFFICIAL), variables)
  golden = Golden("efficientnet_tiny").variables()
  head = loaded["params"]["Head_6"].pop("dense")
  assert_equal(head, variables["params"]["Head_6"]["dense"])
  golden["params"]["Head_6"].pop("dense")
  assert_equal(loaded, golden)
  assert "Head_6/dense/bias, Head_6/dense/kernel newly initialized" in report
  assert "10 classes instead of 1000" in report


def training_tree(ema):
  model = official_tree()
  params, state = model["0"], model["1"]
  average = jax.tree.map(lambda a: a + np.float32(1), {"0": params, "1": state})
  with_average = {
    "0": state,
    "1": {"param_ema": average, "decay": 0.9999, "warmup_steps": 5},
  }
  momenta = jax.tree.map(lambda a: {"momentum": a}, params)
  return {
    "optimizer": {
      "target": params,
      "state": {"step": np.int32(7), "param_states": momenta},
    },
    "model_state": with_average if ema else state,
    "epoch": 3,
  }


@pytest.mark.parametrize(
  ("ema", "use_ema", "shift", "kind"),
  [
    (False, True, 0, "official training checkpoint"),
    (True, True, 1, "moving averages"),
    (True, False, 0, "not its moving averages"),
  ],
)
def test_training_checkpoints(tmp_path, ema, use_ema, shift, kind):
  path = write(tmp_path / "checkpoint_7", training_tree(ema))
  checkpoint = read_checkpoint(path, use_ema=use_ema)
  loaded, report = load_pretrained(checkpoint, fresh()[1])
  expected = jax.tree.map(
    lambda a: a + np.float32(shift), Golden("efficientnet_tiny").variables()
  )
  assert_equal(loaded, expected)
  assert kind in report


@pytest.mark.parametrize("name", ["efficientnet_tiny", "wrn10_2"])
def test_saved_file_round_trip(tmp_path, name):
  _, variables = fresh(name, 10)
  path = tmp_path / "model.msgpack"
  path.write_bytes(b"".join(serialize(variables)))
  zeros = jax.tree.map(np.zeros_like, variables)
  loaded, report = load_pretrained(read_checkpoint(path), zeros)
  assert_equal(loaded, variables)
  assert "converted file" in report
  model, loaded, again = load_network(name, read_checkpoint(path))
  assert (model, again) == (create_model(name, 10), report)
  assert_equal(loaded, variables)


def test_round_trip_without_batch_norm(tmp_path):
  variables = {"params": {"Dense_3": {"kernel": np.ones((2, 3), np.float32)}}}
  (tmp_path / "file").write_bytes(b"".join(serialize(variables)))
  loaded, _ = load_pretrained(read_checkpoint(tmp_path / "file"), variables)
  assert_equal(loaded, variables)


BLOCK = "MBConvBlock_3"
KERNEL = f"{BLOCK}/depthwise_conv2d/depthwise_kernel"


def lacks_parameter(tree):
  del tree["0"]["params"][BLOCK]["depthwise_conv2d"]


def lacks_statistic(tree):
  del tree["1"][f"/{BLOCK}/batch_normalization_0"]


def has_extra_block(tree):
  tree["0"]["params"]["MBConvBlock_9"] = tree["0"]["params"][BLOCK]


def has_wrong_shape(tree):
  layer = tree["0"]["params"][BLOCK]["depthwise_conv2d"]
  layer["depthwise_kernel"] = layer["depthwise_kernel"][:1]


def has_no_array(tree):
  tree["0"]["params"][BLOCK]["depthwise_conv2d"]["depthwise_kernel"] = "lost"


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lacks_parameter, rf"lacks 1 of the network's 70 parameter.*'{KERNEL}'"),
    (lacks_statistic, rf"lacks 2 .*'{BLOCK}/batch_normalization_0/mean'"),
    (
      has_extra_block,
      "parameter arrays that the network lacks.*'MBConvBlock_9",
    ),
    (
      has_wrong_shape,
      rf"'{KERNEL}' has shape \(1, 3, 96, 1\), not \(3, 3, 96, 1\)",
    ),
    (has_no_array, rf"'{KERNEL}' is not an array but a str.*fetch it again"),
  ],
)
def test_damaged_checkpoints(tmp_path, damage, message):
  tree = copy.deepcopy(official_tree())
  damage(tree)
  path = write(tmp_path / "checkpoint_0", tree)
  with pytest.raises(ValueError, match=message) as error:
    load_pretrained(read_checkpoint(path), fresh()[1])
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (OFFICIAL.read_bytes()[:-1000], "is truncated .*Fetch it again"),
    (b"", r"is truncated \(0 bytes"),
    (
      b"what is this",
      "is not a Flax checkpoint.*Give weights of a source that docs/pre",
    ),
    (b"PK\x03\x04 and no end", "is a damaged zip file .*Fetch it again"),
    (b"\x80\x02 of PyTorch", "is a pickle.*Pickles can run code"),
    (b"\x89HDF\r\n\x1a\n", "is a damaged HDF5 file .*Fetch it again"),
    (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    (b"<!DOCTYPE html>", "is a web page. Give"),
    (b"<\0\0\0STABLEHLO", "is not a Flax checkpoint"),
    (b"\x1f\x8b of tar.gz", "compressed archive. Unpack it with tar -xzf"),
    (serialization.msgpack_serialize({"a": 1}), r"top-level keys \['a'\]"),
    (serialization.msgpack_serialize(3), "it holds a int"),
    (
      serialization.msgpack_serialize({"0": 1, "1": 2}),
      "not a checkpoint of a",
    ),
    (
      serialization.msgpack_serialize({"optimizer": {}}),
      r"top-level keys \['optimizer'\].*sam_jax.convert",
    ),
  ],
)
def test_files_that_are_not_checkpoints(tmp_path, content, message):
  path = tmp_path / "checkpoint_0"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    load_pretrained(read_checkpoint(path), fresh()[1])
  assert str(path) in str(error.value)


def test_directory_instead_of_file(tmp_path):
  with pytest.raises(
    ValueError, match=r"is a directory; .* it, checkpoint_0\."
  ):
    read_checkpoint(OFFICIAL.parent)
  with pytest.raises(
    ValueError, match=r"is a directory without .* Give weights"
  ):
    read_checkpoint(tmp_path)


def test_other_architecture():
  _, variables = fresh("wrn10_2", 10)
  with pytest.raises(ValueError, match="Use the network that it was made from"):
    load_pretrained(read_checkpoint(OFFICIAL), variables)


def test_archives_of_pytorch_and_keras_name_the_remedy(tmp_path):
  for inside, message in (
    ("archive/data.pkl", "is an archive of PyTorch. Pickles can run code"),
    ("model.weights.h5", "is a model of Keras. Unpack it with unzip"),
    ("readme.txt", "is a zip archive. Give weights"),
  ):
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
      archive.writestr(inside, b"never opened")
    with pytest.raises(CheckpointError, match=message):
      read_checkpoint(tmp_path / "file")


def test_parts_of_a_file_are_those_of_flax():
  _, variables = fresh()
  whole = serialization.msgpack_serialize(
    serialization.to_state_dict(
      {k: variables[k] for k in ("params", "batch_stats")}
    )
  )
  parts = list(serialize(variables))
  assert b"".join(parts) == whole
  largest = max(array.nbytes for array in jax.tree.leaves(variables))
  assert max(map(len, parts)) < largest + 100  # an array at a time
