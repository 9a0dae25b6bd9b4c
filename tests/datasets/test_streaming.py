"""Streamed batches: decided by (seed, step), shared by hosts, whole."""

import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from sam_jax.config.schema import default_config
from sam_jax.datasets import (
  catalog,
  labels,
  streaming,
  tfds_files,
  tfrecords,
)
from sam_jax.datasets.streaming import load_streaming
from sam_jax.training.input_pipeline import create_dataset
from tests.datasets import archives

SPEC = catalog.dataset_spec("fgvc_aircraft").with_image_size(8)
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 25, 6, 11


@pytest.fixture(scope="module")
def aircraft(tmp_path_factory):
  """Prepare a small FGVC-Aircraft; return its data directory."""
  downloads = tmp_path_factory.mktemp("downloads")
  archives.write_fgvc_aircraft(downloads, (NUM_TRAIN, NUM_VALIDATION, NUM_TEST))
  data_dir = str(tmp_path_factory.mktemp("data"))
  archives.prepare(tfds_files.tfds_builder(SPEC, data_dir), downloads)
  return data_dir


def load(data_dir, **kwargs):
  fields = {"validation_size": 0, "crops_at_random": True, "seed": 0}
  fields |= {"batch_size": 6, "eval_batch_size": 6, **kwargs}
  return load_streaming(SPEC, data_dir=data_dir, **fields)


def take(batches, count):
  return [next(batches) for _ in range(count)]


def keys(batches, masked=False):
  """Return bytes that tell images apart."""
  batches = list(batches)
  images = np.concatenate([b["image"] for b in batches])
  if masked:
    images = images[np.concatenate([b["mask"] for b in batches]) > 0]
  return [image.tobytes() for image in images]


def assert_equal(batch, expected):
  assert batch.keys() == expected.keys()
  for name in batch:
    np.testing.assert_array_equal(batch[name], expected[name])


def test_an_epoch_sees_each_example_at_most_once(aircraft):
  dataset = load(aircraft, crops_at_random=False)
  everything = keys(dataset.eval_batches("train"), masked=True)
  assert len(set(everything)) == len(everything) == 31
  assert (dataset.num_train, dataset.steps_per_epoch) == (31, 5)
  batches = dataset.train_batches(0)
  first, second = keys(take(batches, 5)), keys(take(batches, 5))
  for epoch in (first, second):
    assert len(set(epoch)) == 30 and set(epoch) <= set(everything)
  assert first != second


@pytest.fixture(scope="module")
def first_batches(aircraft):
  return take(load(aircraft).train_batches(0), 13)


@pytest.fixture(scope="module")
def batches_of_another_seed(aircraft):
  return take(load(aircraft, seed=1).train_batches(0), 13)


@pytest.mark.parametrize("step", [1, 4, 5, 12])
def test_any_step_is_reached_without_those_before(
  aircraft, first_batches, batches_of_another_seed, step
):
  expected, other = first_batches[step], batches_of_another_seed[step]
  assert_equal(next(load(aircraft).train_batches(step)), expected)
  assert not np.array_equal(other["image"], expected["image"])


def test_crops_change_between_epochs_only(aircraft):
  fields = {"batch_size": 31, "eval_batch_size": 31}
  batches = load(aircraft, **fields).train_batches(0)
  first, second = keys(take(batches, 1)), keys(take(batches, 1))
  assert not set(first) & set(second)
  # Another batch size: the same crops in other batches.
  again = take(load(aircraft, batch_size=3).train_batches(0), 10)
  assert keys(again) == first[:30]


@pytest.fixture(scope="module")
def evaluation_batches(aircraft):
  return list(load(aircraft).eval_batches("test"))


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_share_the_batches_of_a_single_host(
  aircraft, first_batches, evaluation_batches, hosts
):
  views = [
    load(aircraft, process_index=i, process_count=hosts) for i in range(hosts)
  ]
  train = zip(*[take(v.train_batches(3), 4) for v in views], strict=True)
  evaluation = zip(*[v.eval_batches("test") for v in views], strict=True)
  for pairs in (
    zip(train, first_batches[3:7], strict=True),
    zip(evaluation, evaluation_batches, strict=True),
  ):
    for parts, whole in pairs:
      together = {n: np.concatenate([p[n] for p in parts]) for n in whole}
      assert_equal(together, whole)


def test_evaluation_sees_every_example_once(aircraft, evaluation_batches):
  assert {len(b["image"]) for b in evaluation_batches} == {6}
  seen = keys(evaluation_batches, masked=True)
  assert len(seen) == len(set(seen)) == NUM_TEST
  assert_equal(next(load(aircraft).eval_batches("test")), evaluation_batches[0])


def test_validation_set_is_the_end_of_the_first_split(aircraft):
  fields = {"validation_size": 4, "crops_at_random": False}
  dataset = load(aircraft, **fields)
  assert dataset.num_train == NUM_TRAIN + NUM_VALIDATION - 4
  everything = keys(load(aircraft).eval_batches("train"), masked=True)
  held_out = keys(dataset.eval_batches("test"), masked=True)
  assert held_out == everything[NUM_TRAIN - 4 : NUM_TRAIN]
  rest = keys(dataset.eval_batches("train"), masked=True)
  assert rest == everything[: NUM_TRAIN - 4] + everything[NUM_TRAIN:]
  with pytest.raises(catalog.DatasetError, match="validation_size = 25 leaves"):
    load(aircraft, validation_size=25)


def test_labels_of_a_file(aircraft, tmp_path):
  path = tmp_path / "labels.npy"
  wanted = np.arange(31) + 50
  labels.write_labels(path, wanted)
  dataset = load(aircraft, labels_path=path, batch_size=31)
  clean = next(load(aircraft, batch_size=31).train_batches(0))["label"]
  batch = next(dataset.train_batches(0))
  assert sorted(batch["label"]) == list(wanted)
  np.testing.assert_array_equal(batch["clean_label"], clean)
  assert dataset.spec.noisy_labels
  labels.write_labels(path, wanted[1:])
  with pytest.raises(catalog.DatasetError, match="each of the 31 training"):
    load(aircraft, labels_path=path)


def test_noise_stays_in_training_labels(aircraft, monkeypatch):
  config = default_config()
  config.dataset.name, config.dataset.data_dir = SPEC.name, aircraft
  config.dataset.image_size, config.batch_size = 8, 27
  config.dataset.validation_size = 4
  noise = {"rate": 0.5, "kind": "symmetric_other", "seed": 7}
  config.dataset.label_noise = noise
  create_dataset(config)
  # The labels of all records were read once, for any run.
  monkeypatch.setattr(tfrecords, "_read_labels", None)
  dataset = create_dataset(config)
  batch = next(dataset.train_batches(0))
  assert np.sum(batch["label"] != batch["clean_label"]) == round(27 * 0.5)
  clean = [b["label"] for b in dataset.eval_batches("train")]
  expected = labels.corrupt_labels(
    np.concatenate(clean), SPEC.num_classes, **noise
  )
  np.testing.assert_array_equal(dataset._train_labels, expected)


def test_image_that_cannot_be_decoded_is_named(tmp_path, monkeypatch):
  photo, count = archives.photo, itertools.count()

  def one_of_them_bad(*arguments, **kwargs):
    start = b"no image" if next(count) == 10 else b""
    return start + photo(*arguments, **kwargs)

  monkeypatch.setattr(archives, "photo", one_of_them_bad)
  archives.write_fgvc_aircraft(tmp_path, (8, 5, 1))
  data_dir = str(tmp_path / "data")
  archives.prepare(tfds_files.tfds_builder(SPEC, data_dir), tmp_path)
  message = (
    r"record (.) of split 'validation', in (.*), can't be read: Unknown image"
    r" file format\. One of .* required\. Repair that"
  )
  with pytest.raises(catalog.DatasetError, match=message) as error:
    take(load(data_dir).train_batches(0), 20)
  number, path = re.search(message, str(error.value)).groups()
  found = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
  assert b"no image" in found[int(number)]


def test_batches_end_with_the_program(aircraft):
  """TensorFlow would wait forever for the generator of the order."""
  batches = load(aircraft).train_batches(0)
  next(batches)
  streaming._close_streams()
  assert list(batches) == []


@pytest.mark.parametrize(
  ("model", "size", "expected"),
  [("efficientnet_b0", None, 224), ("wrn28_10", 64, 64)],
)
def test_size_is_the_models_own_unless_asked_for(
  aircraft, model, size, expected
):
  config = default_config()
  config.dataset.name, config.dataset.data_dir = SPEC.name, aircraft
  config.model.name, config.dataset.image_size = model, size
  config.batch_size, config.augment.policy = 2, "none"
  batch = next(create_dataset(config).train_batches(0))
  assert batch["image"].shape == (2, expected, expected, 3)
