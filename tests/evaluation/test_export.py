"""Exported networks, read and run without this package."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from sam_jax.analysis.trained_run import TrainedRun
from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog
from sam_jax.evaluation import export
from sam_jax.pretrained.fitting import load_pretrained
from sam_jax.runs import trained_weights
from tests.evaluation.random_runs import random_run

# Reads both files, as docs/after_training.md describes, and calls the program.
SERVE = """
import json, pathlib, sys
import jax, jax.export, numpy as np

def read(path):
  data = pathlib.Path(path).read_bytes()
  size = 8 + int.from_bytes(data[:8], "little")
  header = json.loads(data[8:size])
  header.pop("__metadata__")
  types = {"F32": np.float32, "F16": np.float16}
  arrays = {}
  for name, entry in header.items():
    begin, end = (size + offset for offset in entry["data_offsets"])
    array = np.frombuffer(data[begin:end], types[entry["dtype"]])
    arrays[name] = array.reshape(entry["shape"])
  return arrays

directory = pathlib.Path(sys.argv[1])
program = jax.export.deserialize((directory / "network.stablehlo").read_bytes())
arrays = read(directory / "network.safetensors")
images = np.load(sys.argv[2])
some = program.call(arrays, images[0])
np.savez(sys.argv[3], some, program.call(arrays, np.concatenate(images)))
loaded = [name for name in sys.modules if name.startswith(("sam_jax", "flax"))]
assert not loaded, loaded
"""


def test_exported_network_runs_without_this_package(tmp_path):
  run = random_run("cnn4", "cifar10")
  shape = (2, 3, *run.spec.shape_in_memory)
  images = np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)
  np.save(tmp_path / "images.npy", images)
  pytest.importorskip("safetensors")
  data = export.to_safetensors(run)
  (tmp_path / "network.safetensors").write_bytes(data)
  (tmp_path / "network.stablehlo").write_bytes(export.to_stablehlo(run))
  arguments = [tmp_path, tmp_path / "images.npy", tmp_path / "logits.npz"]
  subprocess.run([sys.executable, "-c", SERVE, *arguments], check=True)
  some, found = np.load(tmp_path / "logits.npz").values()
  logits = jax.jit(run.logits)(run.variables, np.concatenate(images))
  assert np.std(logits, axis=0).min() > 1e-3
  np.testing.assert_allclose(found, logits, rtol=1e-5)
  np.testing.assert_allclose(some, logits[:3], rtol=1e-5)


def test_weights_can_be_read_to_start_another_run(tmp_path):
  pytest.importorskip("safetensors")
  run = random_run("cnn4", "cifar10")
  file = tmp_path / "network.safetensors"
  file.write_bytes(export.to_safetensors(run))
  checkpoint = trained_weights.read(str(file))
  variables, report = load_pretrained(checkpoint, run.variables)
  same = jax.tree.map(np.array_equal, variables, run.variables)
  assert all(jax.tree.leaves(same))
  assert "exported cnn4 of cifar10" in report
  assert checkpoint.image_shape == (32, 32, 3)


def test_description_of_the_preprocessing():
  about = export.description(random_run("cnn4", "cifar10"))
  assert json.loads(about["images"]) == [32, 32, 3]
  assert json.loads(about["mean"])[0] == catalog.dataset_spec("cifar10").mean[0]
  assert json.loads(about["class_names"])[9] == "9"
  streamed = export.description(random_run("cnn4", "imagenet2012"))
  assert "40/72 of the shorter side" in streamed["resizing"]


def test_network_that_cannot_be_exported(monkeypatch):
  run = random_run("cnn4", "cifar10")

  def fail(*_):
    raise NotImplementedError("no lowering of this\nand more")

  monkeypatch.setattr(TrainedRun, "logits", fail)
  with pytest.raises(ConfigError) as error:
    export.to_stablehlo(run)
  assert str(error.value) == (
    "--export=stablehlo: cnn4 can't be exported: no lowering of this"
  )
