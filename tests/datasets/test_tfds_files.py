"""Data that TFDS prepared: find it, check it, or refuse it."""

import dataclasses
import functools
import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds
import urllib3

from sam_jax.datasets import catalog, tfds_files
from sam_jax.datasets.in_memory import load_in_memory
from sam_jax.datasets.streaming import load_streaming

DIGITS = catalog.dataset_spec("digits")


class Mislabeled(tfds.core.GeneratorBasedBuilder):
  """Images and plain integers as labels, two of them out of range."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.Scalar(np.int64),
      }
    )
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {name: self._generate_examples() for name in ("train", "test")}

  def _generate_examples(self):
    for i in range(12):
      yield i, {"image": np.zeros((8, 8, 3), np.uint8), "label": i}


MISLABELED = dataclasses.replace(
  DIGITS,
  name="mislabeled",
  tfds_name=f"{__name__}:Mislabeled",
  image_shape=(8, 8, 3),
)


def test_unwritable_data_dir_is_named_with_a_remedy(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(catalog.DatasetError, match=r"file.*Not a directory. Set"):
    tfds_files.prepared_builder(DIGITS, str(tmp_path / "file"))


@pytest.mark.parametrize(
  "prepare", [tfds_files.prepared_builder, tfds_files.download_and_prepare]
)
def test_two_processes_prepare_at_once(prepare, tmp_path, monkeypatch):
  """TFDS fails in the process that is the second to rename its files."""
  from sam_jax.datasets.builders.digits import Digits

  seen = []

  def while_another_is_faster(builder, manager):
    seen.append(builder)
    if len(seen) == 1:
      tfds_files.tfds_builder(DIGITS, str(tmp_path)).download_and_prepare()
    image = np.zeros((8, 8, 1), np.uint8)
    return {"test": [(i, {"image": image, "label": i}) for i in range(3)]}

  monkeypatch.setattr(Digits, "_split_generators", while_another_is_faster)
  builder = prepare(DIGITS, str(tmp_path))
  assert len(seen) == 2
  assert builder.info.splits["test"].num_examples == 3


@pytest.mark.parametrize(
  ("name", "rest"),
  [
    ("cifar10", ""),
    ("cifar10_n", " --manual_dir=DIR, where DIR holds CIFAR-10_human_annot"),
  ],
)
def test_missing_data_set_says_how_to_prepare_it(tmp_path, name, rest):
  data_dir = str(tmp_path / "my data")
  with pytest.raises(catalog.DatasetError) as error:
    tfds_files.prepared_builder(catalog.dataset_spec(name), data_dir)
  command = "python -m sam_jax.datasets.prepare"
  expected = f"{command} {name} '--data_dir={data_dir}'{rest}"
  assert expected in str(error.value)


@pytest.mark.parametrize(
  ("fields", "found"),
  [
    (
      {"num_classes": 5},
      "says num_classes = 5, but its data have 10 classes in 'label'. Correct",
    ),
    (
      {"image_shape": (8, 8, 3)},
      "says image_shape = (8, 8, 3), but its data have (8, 8, 1). Correct",
    ),
    (
      {"image_shape": (28, 8, 1)},
      "says image_shape = (28, 8, 1), but its data have (8, 8, 1). Correct",
    ),
    (
      {"noisy_label_columns": ("worse",)},
      "has no feature 'worse', only image, label. Rename",
    ),
  ],
)
def test_spec_that_differs_from_the_data(data_dir, fields, found):
  wrong = dataclasses.replace(DIGITS, **fields)
  with pytest.raises(catalog.DatasetError) as error:
    tfds_files.prepared_builder(wrong, str(data_dir))
  message = str(error.value)
  assert message.startswith("Data set 'digits'") and found in message
  assert "\n" not in message


@pytest.mark.parametrize("storage", [catalog.IN_MEMORY, catalog.STREAM])
def test_labels_that_tfds_has_no_classes_for(tmp_path, storage):
  """TFDS knows no number of classes here: the labels themselves are checked."""
  spec = dataclasses.replace(MISLABELED, storage=storage)
  load = load_in_memory
  if storage == catalog.STREAM:
    load = functools.partial(load_streaming, crops_at_random=False)
  fields = {"batch_size": 12, "eval_batch_size": 12, "seed": 0}
  message = "'mislabeled': .* num_classes = 10, .* labels from 0 to 11. Correct"
  with pytest.raises(catalog.DatasetError, match=message):
    dataset = load(spec, data_dir=str(tmp_path), validation_size=0, **fields)
    next(dataset.train_batches(0))


@pytest.mark.parametrize("proxy", [None, "http://proxy.invalid:3128"])
def test_without_a_network_no_download_is_retried(
  tmp_path, monkeypatch, proxy, caplog
):
  asked = []

  def no_such_host(host, *_, **__):
    asked.append(host)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

  monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
  for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
    monkeypatch.delenv(name, raising=False)
  if proxy:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
  increment = urllib3.util.retry.Retry.increment
  spec = catalog.dataset_spec("cifar10")
  with pytest.raises(catalog.DatasetError) as error:
    tfds_files.download_and_prepare(spec, str(tmp_path))
  host = "proxy.invalid" if proxy else "www.cs.toronto.edu"
  assert asked == [host]
  assert str(error.value) == (
    "Data set 'cifar10' can't be prepared: www.cs.toronto.edu can't be reached."
    " Connect this machine to the network, put cifar-10-binary.tar.gz or"
    " cifar-10-python.tar.gz into --manual_dir, or copy the prepared data from"
    " another machine."
  )
  assert "Retrying" not in caplog.text
  assert urllib3.util.retry.Retry.increment is increment
