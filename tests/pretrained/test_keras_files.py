"""Weights of Keras: its own logits, and both layouts of its files."""

import functools
import warnings

import h5py
import jax
import numpy as np
import pytest

from sam_jax.models import create_model
from sam_jax.pretrained.checkpoint import CheckpointError
from sam_jax.pretrained.fitting import load_network, load_pretrained
from sam_jax.pretrained.formats import read_checkpoint
from tests.pretrained import sources
from tests.pretrained.made_up_weights import make_array, make_images
from tests.pretrained.record_logits import set_weights

pytestmark = pytest.mark.long  # Keras builds and saves a whole network


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Return files that Keras wrote: of today's layout, and of the older one."""
  import keras  # seconds, because of TensorFlow

  directory = tmp_path_factory.mktemp("keras")
  model = keras.applications.EfficientNetB0(weights=None)
  set_weights(model)
  model.save_weights(directory / "b0.weights.h5")
  with warnings.catch_warnings(action="ignore"):  # that the layout is old
    model.save(directory / "b0.h5")
  return {"numbered": directory / "b0.weights.h5", "named": directory / "b0.h5"}


def test_logits_are_those_of_keras(files):
  shapes, logits = sources.golden("keras_b0_224")
  model, variables, report = load_network(
    "efficientnet_b0", read_checkpoint(files["numbered"])
  )
  mean, variance = (
    make_array(f"normalization/{name}", shapes[f"normalization/{name}"])
    for name in ("mean", "variance")
  )
  evaluate = jax.jit(functools.partial(model.apply, train=False))
  images = (make_images(2, 224) / 255 - mean) / np.sqrt(variance)
  np.testing.assert_allclose(
    evaluate(variables, images), logits, rtol=0, atol=1e-4
  )
  assert np.abs(logits[0] - logits[1]).max() > 0.1  # of two images
  assert "(Keras' EfficientNet), the head of 1000 classes included." in report
  numbers = [round(float(v), 4) for v in mean.reshape(-1)]
  assert f"normalized images in [0, 1] by mean {numbers} and var" in report


def test_both_layouts_hold_the_same(files):
  numbered, named = (read_checkpoint(file) for file in files.values())
  for first, second in zip(numbered[:2], named[:2], strict=True):
    assert first.keys() == second.keys()
    for name, value in first.items():
      np.testing.assert_array_equal(value, second[name], name)
  assert numbered.preprocessing == named.preprocessing


def without_head(source, target):
  """Copy the layers of a file as those with "_notop" in their names have them.

  Names end in ":0", as those of Keras 2.
  """
  with h5py.File(source) as old, h5py.File(target, "w") as new:
    layers = old["model_weights"]
    for layer in layers:
      for name, value in layers[layer].get(layer, {}).items():
        if layer != "predictions":
          new[f"{layer}/{layer}/{name}:0"] = value[()]


def test_file_without_a_head(files, tmp_path):
  without_head(files["named"], tmp_path / "notop.h5")
  checkpoint = read_checkpoint(tmp_path / "notop.h5")
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  model = create_model("efficientnet_b0", 7)
  init = functools.partial(model.init, jax.random.key(0), train=False)
  _, report = load_pretrained(checkpoint, jax.eval_shape(init, image))
  assert "Head_17/dense/bias, Head_17/dense/kernel newly init" in report
  assert "for 7 classes as the file has no head" in report
  with pytest.raises(
    CheckpointError, match=r"has no linear layer. Start a run"
  ):
    load_network("efficientnet_b0", checkpoint)


def test_other_networks_of_keras_are_one_line(tmp_path):
  with h5py.File(tmp_path / "vgg.h5", "w") as file:
    file["block1_conv1/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 8))
  with pytest.raises(CheckpointError, match="no EfficientNet of Keras: its ar"):
    read_checkpoint(tmp_path / "vgg.h5")
  with h5py.File(tmp_path / "empty.h5", "w"):
    pass
  with pytest.raises(CheckpointError, match="HDF5 file without names of lay"):
    read_checkpoint(tmp_path / "empty.h5")


def test_damaged_file(files, tmp_path):
  data = files["numbered"].read_bytes()
  (tmp_path / "half.h5").write_bytes(data[: len(data) // 2])
  with pytest.raises(
    CheckpointError, match=r"damaged HDF5 file .*trunc.*Fetch"
  ):
    read_checkpoint(tmp_path / "half.h5")
