"""Runs on archives in the real formats, read by the real builders."""

import json
import os
import shutil
import tarfile

import flax.linen as nn
import numpy as np
import pytest

from sam_jax import models
from sam_jax.analysis import trained_run as runs
from sam_jax.config.schema import default_config
from sam_jax.datasets import catalog, in_memory, tfds_files
from sam_jax.training.build import preprocess_fn
from sam_jax.training.input_pipeline import create_dataset
from sam_jax.training.loop import train_and_evaluate
from tests.datasets import archives

# Training and test examples that the archives hold.
COUNTS = {
  "cifar10": (40, 11),
  "cifar10_n": (40, 11),
  "cifar100": (40, 11),
  "cifar100_n": (40, 11),
  "svhn": (24 + 16, 11),
  "fashion_mnist": (40, 11),
  "imagenet2012": (20, 11),
  "fgvc_aircraft": (24, 11),
  "birdsnap": (22, 11),
  "stanford_cars": (16, 11),
  "oxford_flowers102": (8 + 8, 11),
  "oxford_iiit_pet": (16, 11),
  "food101": (16, 11),
}


class Tiny(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x, *, train, true_gradient=False):
    return nn.Dense(self.num_classes)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Return a function that prepares a data set, each once."""
  data_dir = tmp_path_factory.mktemp("data")
  done = set()

  def prepare(name, monkeypatch):
    if name not in done:
      from tensorflow_datasets.image_classification import mnist

      monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 40)
      monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 11)
      monkeypatch.setattr(archives, "RANDOM", np.random.default_rng(0))
      downloads = tmp_path_factory.mktemp(name)
      write = "imagenet" if name == "imagenet2012" else name
      getattr(archives, f"write_{write}")(downloads)
      builder = tfds_files.tfds_builder(
        catalog.dataset_spec(name), str(data_dir)
      )
      archives.prepare(builder, downloads)
      done.add(name)
    return str(data_dir)

  return prepare


def config_for(name, data_dir):
  config = default_config()
  config.dataset.name, config.dataset.data_dir = name, data_dir
  config.batch_size, config.eval_batch_size = 8, 8
  config.num_epochs = 1
  config.log_every_steps = 1
  config.compilation_cache_dir = ""
  config.dataset.image_size = 16
  config.augment.policy = "none"  # little to compile
  config.sam.rho = 0.0
  return config


@pytest.mark.parametrize("name", COUNTS)
def test_training_from_archives(name, prepared, monkeypatch, tmp_path):
  monkeypatch.setattr(
    models, "create_model", lambda name, num_classes, **_: Tiny(num_classes)
  )
  config = config_for(name, prepared(name, monkeypatch))
  result = train_and_evaluate(config, tmp_path / "run")
  num_train, num_test = COUNTS[name]
  assert result["step"] == num_train // 8 >= 2
  assert np.isfinite(result["loss"])
  wrong = result["error_rate"] * num_test
  assert wrong == pytest.approx(round(wrong), abs=1e-4)  # none twice
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert ("error_rate_on_wrong_labels" in "".join(lines)) == (
    name in ("cifar10_n", "cifar100_n")
  )
  assert all(json.loads(line) for line in lines)
  if name in ("cifar10", "birdsnap"):
    check_relabeling(tmp_path / "run", num_train)


def check_relabeling(workdir, num_train):
  """Check that every training image gets the class that the network sees."""
  run = runs.load_run(workdir)
  labels = runs.predicted_labels(run)
  batches = list(run.dataset.eval_batches("train"))
  mask = np.concatenate([b["mask"] for b in batches]) > 0
  images = np.concatenate([b["image"] for b in batches])[mask]
  images = preprocess_fn(run.dataset.spec)(images)
  logits = run.model.apply({"params": run.params}, images, train=0)
  assert labels.shape == (num_train,)
  np.testing.assert_array_equal(labels, logits.argmax(-1))


@pytest.mark.parametrize("column", ["label", "worse_label", "aggre_label"])
def test_choice_of_noisy_labels(column, prepared, monkeypatch):
  config = config_for("cifar10_n", prepared("cifar10_n", monkeypatch))
  config.dataset.label_column = column
  dataset = create_dataset(config)
  batch = next(dataset.train_batches(0))
  assert ("clean_label" in batch) == (column != "label")
  clean = np.concatenate([b["label"] for b in dataset.eval_batches("train")])
  given = dataset.training_arrays()[1]
  assert np.array_equal(clean, given) == (column == "label")
  config.dataset.label_column = "best_label"
  with pytest.raises(catalog.DatasetError, match="'best_label': cifar10_n has"):
    create_dataset(config)


def test_cifar_pixels_and_labels_come_through(prepared, monkeypatch, tmp_path):
  config = config_for("cifar10", prepared("cifar10", monkeypatch))
  images, labels = create_dataset(config).training_arrays()
  planes = images.transpose(0, 3, 1, 2).reshape(40, -1)
  rows = np.concatenate([labels[:, None], planes], 1).astype(np.uint8)
  monkeypatch.setattr(archives, "RANDOM", np.random.default_rng(0))
  archives.write_cifar10(tmp_path)
  with tarfile.open(tmp_path / "cifar-10-binary.tar.gz") as tar:
    batches = [
      tar.extractfile(f"cifar-10-batches-bin/data_batch_{i}.bin").read()
      for i in range(1, 6)
    ]
  written = np.frombuffer(b"".join(batches), np.uint8).reshape(40, 3073)
  assert sorted(map(bytes, rows)) == sorted(map(bytes, written))


def test_cache_follows_the_data(tmp_path, monkeypatch):
  """The data were prepared again from another archive, or damaged."""
  spec, data_dir = catalog.dataset_spec("cifar10"), tmp_path / "data [1]"
  decoded_images = []
  for seed in (0, 1):
    monkeypatch.setattr(archives, "RANDOM", np.random.default_rng(seed))
    downloads = tmp_path / str(seed)
    downloads.mkdir()
    archives.write_cifar10(downloads)
    shutil.rmtree(data_dir / "cifar10", ignore_errors=True)
    shutil.rmtree(data_dir / "downloads", ignore_errors=True)
    builder = tfds_files.tfds_builder(spec, str(data_dir))
    archives.prepare(builder, downloads)
    arrays = in_memory.load_split(spec, "train", str(data_dir))
    decoded_images.append(arrays["image"])
  assert not np.array_equal(*decoded_images)

  (file,) = builder.info.splits["train"].filepaths
  for size, message in (
    (file.stat().length - 1, f"{file.name} holds 39 of 40 records"),
    (0, f"{file.name} holds 0 of 40 records"),
    (None, f"{file.name} is not there"),
  ):
    if size is None:
      file.unlink()
    else:
      os.truncate(file, size)
    expected = f"is damaged: {message}. Remove that directory and prepare"
    with pytest.raises(catalog.DatasetError, match=expected):
      in_memory.load_split(spec, "train", str(data_dir))
  shutil.rmtree(builder.data_path)
  builder.data_path.mkdir()
  with pytest.raises(catalog.DatasetError, match="is damaged: dataset_info"):
    in_memory.load_split(spec, "train", str(data_dir))


def test_damaged_pixels_are_named(tmp_path, monkeypatch):
  spec = catalog.dataset_spec("cifar10")
  archives.write_cifar10(tmp_path)
  builder = tfds_files.tfds_builder(spec, str(tmp_path / "data"))
  archives.prepare(builder, tmp_path)
  (file,) = builder.info.splits["test"].filepaths
  data = bytearray(file.read_bytes())
  data[1000] ^= 255
  file.write_bytes(bytes(data))
  with pytest.raises(catalog.DatasetError, match="is damaged: corrupted rec"):
    in_memory.load_split(spec, "test", str(tmp_path / "data"))


def test_missing_split_is_named(prepared, monkeypatch):
  data_dir = prepared("imagenet2012", monkeypatch)
  spec = catalog.dataset_spec("imagenet2012")
  builder = tfds_files.prepared_builder(spec, data_dir)
  with pytest.raises(catalog.DatasetError, match="no split 'test'"):
    tfds_files.split_info(spec, builder, "test")
