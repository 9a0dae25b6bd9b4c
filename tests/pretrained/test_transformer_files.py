"""Weights of ViTs and Mixers: timm's logits, layouts, other sizes of images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import create_model
from sam_jax.pretrained.checkpoint import CheckpointError
from sam_jax.pretrained.fitting import load_network, load_pretrained
from sam_jax.pretrained.flax_files import serialize
from sam_jax.pretrained.formats import read_checkpoint
from tests.models.golden_models import flattened, quick_variables
from tests.models.passes import eval_pass
from tests.models.shapes import init_shapes
from tests.pretrained import sources
from tests.pretrained.made_up_weights import make_array, make_images

POSITIONS = "Transformer/posembed_input/pos_embedding"


def arrays_of(name):
  """Return the recorded network's arrays by their names in a file."""
  shapes, _ = sources.golden(f"timm_{name}")
  return {key: make_array(key, shape) for key, shape in shapes.items()}


def write(path, arrays):
  with path.open("wb") as file:  # no .npz: the name says nothing
    np.savez(file, **arrays)
  return path


def assert_logits_are_recorded(name, size, tmp_path):
  _, logits = sources.golden(f"timm_{name}_{size}")
  path = write(tmp_path / "any name", arrays_of(f"{name}_{size}"))
  model, variables, report = load_network(name, read_checkpoint(path))
  assert f"(google-research's {name})" in report
  assert f"the head of {logits.shape[1]} classes included" in report
  assert "set config.dataset.normalization = 'symmetric'" in report
  actual = eval_pass(model, variables, make_images(2, size) / 127.5 - 1)
  np.testing.assert_allclose(actual, logits, rtol=0, atol=1e-4)
  assert np.abs(logits[0] - logits[1]).max() > 0.1  # of two images


@pytest.mark.parametrize("name", ["vit_nano4", "vit_nano4_gap", "mixer_nano4"])
def test_logits_of_small_networks_are_those_of_timm(name, tmp_path):
  assert_logits_are_recorded(name, 32, tmp_path)


@pytest.mark.long  # compiles whole networks
@pytest.mark.parametrize("name", ["vit_s16_gap", "vit_b32", "mixer_s16"])
def test_logits_are_those_of_timm(name, tmp_path):
  assert_logits_are_recorded(name, 224, tmp_path)


def read(name, tmp_path, **changes):
  """Read a file of `name`, some arrays of which are replaced or absent."""
  arrays = arrays_of(name) | changes
  kept = {key: value for key, value in arrays.items() if value is not None}
  return read_checkpoint(write(tmp_path / "file", kept))


def with_linen_numbers(arrays):
  """Return arrays under the names of Flax's Linen API."""
  for old, new in (
    ("LayerNorm_2", "LayerNorm_1"),
    ("Attention_1", "Attention_0"),
    ("MlpBlock_3", "MlpBlock_0"),
  ):
    arrays = {key.replace(old, new): value for key, value in arrays.items()}
  return arrays


def in_big_vision(arrays):
  """Return arrays in the layout of big_vision, in bfloat16 as its files."""
  arrays = with_linen_numbers(arrays)
  positions = arrays.pop(POSITIONS)
  arrays["pos_embedding"] = positions[:, "cls" in arrays :]
  if "cls" in arrays:
    arrays["cls"] = arrays["cls"] + positions[:, :1]
  stored = {
    f"params/{key}": value.astype(jnp.bfloat16).view("V2")
    for key, value in arrays.items()
  }
  return stored | {"opt/0/mu/embedding/kernel": np.zeros((4, 4, 3, 64))}


@pytest.mark.parametrize("name", ["vit_nano4", "vit_nano4_gap", "mixer_nano4"])
def test_both_apis_of_flax_give_the_same_arrays(name, tmp_path):
  arrays = arrays_of(f"{name}_32")
  old = read_checkpoint(write(tmp_path / "old", arrays)).params
  renamed = with_linen_numbers(arrays)
  new = read_checkpoint(write(tmp_path / "new", renamed)).params
  assert old.keys() == new.keys()
  assert any(key.endswith("LayerNorm_1/scale") for key in new)
  optimized = {f"opt/target/{key}": value for key, value in renamed.items()}
  target = read_checkpoint(write(tmp_path / "target", optimized))
  assert target.params.keys() == new.keys()
  assert target.sources["head/bias"] == "opt/target/head/bias"
  for key, value in target.params.items():
    np.testing.assert_array_equal(value, renamed[key], key)


@pytest.mark.parametrize("name", ["vit_nano4", "vit_nano4_gap"])
def test_networks_of_big_vision_compute_the_same(name, tmp_path):
  _, logits = sources.golden(f"timm_{name}_32")
  path = write(tmp_path / "file", in_big_vision(arrays_of(f"{name}_32")))
  model, variables, report = load_network(name, read_checkpoint(path))
  assert f"google-research's {name}" in report
  actual = eval_pass(model, variables, make_images(2, 32) / 127.5 - 1)
  # The weights are rounded to 8 bits.
  np.testing.assert_allclose(actual, logits, rtol=0, atol=0.1)


def load(name, checkpoint, size):
  model = create_model(name, 10)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  _, shapes = init_shapes(model, image, train=False)
  return load_pretrained(checkpoint, shapes)


def interpolated(grid, size):
  """Return [size, size, C]: linear between the corners, axis by axis."""
  for axis in (0, 1):
    old = np.arange(grid.shape[axis])
    new = np.linspace(0, old[-1], size)
    grid = np.apply_along_axis(
      functools.partial(np.interp, new, old), axis, grid
    )
  return grid


@pytest.mark.parametrize("name", ["vit_nano4", "vit_nano4_gap"])
@pytest.mark.parametrize(("size", "side"), [(48, 12), (20, 5)])
def test_position_embeddings_are_resized(name, size, side, tmp_path):
  checkpoint = read(f"{name}_32", tmp_path)
  variables, report = load(name, checkpoint, size)
  assert f"resized from 8x8 to {side}x{side} patches" in report
  resized = flattened(variables["params"])[POSITIONS]
  old = checkpoint.params[POSITIONS]
  token = int(not name.endswith("_gap"))
  np.testing.assert_array_equal(resized[:, :token], old[:, :token])
  np.testing.assert_allclose(
    resized[0, token:].reshape(side, side, -1),
    interpolated(old[0, token:].reshape(8, 8, -1), side),
    atol=1e-6,
  )
  _, report = load(name, checkpoint, 32)
  assert "resized" not in report


def test_what_does_not_fit_is_one_line(tmp_path):
  token = read("vit_nano4_32", tmp_path)
  with pytest.raises(CheckpointError, match=r"'cls'.*65, 64\), not \(1, 64"):
    load("vit_nano4_gap", token, 32)
  with pytest.raises(CheckpointError, match=r"lacks 1 .*'cls'"):
    load("vit_nano4", read("vit_nano4_gap_32", tmp_path), 32)
  mixer = read("mixer_nano4_32", tmp_path)
  with pytest.raises(CheckpointError, match=r"another shape .*token_mixing"):
    load("mixer_nano4", mixer, 48)
  embedding = np.zeros((4, 4, 3, 65), np.float32)
  with pytest.raises(CheckpointError, match="65 channels, which no network"):
    read("vit_nano4_32", tmp_path, **{"embedding/kernel": embedding})
  lacking = {"Transformer/encoderblock_2/LayerNorm_0/scale": None}
  with pytest.raises(CheckpointError, match=r"lacks 1 .*encoderblock_2/Layer"):
    load("vit_nano4", read("vit_nano4_32", tmp_path, **lacking), 32)


def test_the_linear_layer_of_a_hidden_layer_is_dropped(tmp_path):
  hidden = {"pre_logits/kernel": np.eye(64), "pre_logits/bias": np.ones(64)}
  checkpoint = read("vit_nano4_32", tmp_path, **hidden)
  with pytest.raises(CheckpointError, match="has no linear layer"):
    load_network("vit_nano4", checkpoint)
  variables, report = load("vit_nano4", checkpoint, 32)
  assert "newly initialized for 10 classes as the file has no head" in report
  assert "it follows a hidden layer, pre_logits" in report
  positions = flattened(variables["params"])[POSITIONS]
  np.testing.assert_array_equal(positions, checkpoint.params[POSITIONS])


@pytest.mark.parametrize("name", ["vit_nano4", "mixer_nano4"])
def test_a_converted_file_has_its_own_size_of_images(name, tmp_path):
  """Its images have 20 pixels, and no format says so."""
  model = create_model(name, 7)
  variables = quick_variables(model, np.zeros((1, 20, 20, 1), np.float32))
  path = tmp_path / "converted"
  path.write_bytes(b"".join(serialize(variables)))
  _, loaded, report = load_network(name, read_checkpoint(path))
  assert "the head of 7 classes included" in report and "resiz" not in report
  for key, value in flattened(variables["params"]).items():
    np.testing.assert_array_equal(flattened(loaded["params"])[key], value)
