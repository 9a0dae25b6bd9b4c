"""The index of records, and what damaged or other files are answered with."""

import os
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from sam_jax.datasets import array_cache, catalog, tfds_files, tfrecords
from tests.datasets import archives

SPEC = catalog.dataset_spec("fgvc_aircraft")


@pytest.fixture(scope="module")
def aircraft(tmp_path_factory):
  """Prepare a small FGVC-Aircraft; return its data directory."""
  downloads = tmp_path_factory.mktemp("downloads")
  archives.write_fgvc_aircraft(downloads, (25, 6, 11))
  data_dir = str(tmp_path_factory.mktemp("data"))
  archives.prepare(tfds_files.tfds_builder(SPEC, data_dir), downloads)
  return data_dir


def record_files(data_dir, *splits):
  builder = tfds_files.prepared_builder(SPEC, data_dir)
  return tfrecords.RecordFiles(SPEC, builder, splits, data_dir)


def test_records_are_those_of_the_files(aircraft):
  files = record_files(aircraft, "train", "validation")
  expected = tf.data.TFRecordDataset(files.paths).as_numpy_iterator()
  found = [
    tfrecords.read_record(files.paths[file], offset).numpy()
    for file, offset in zip(
      files.file_of_record, files.offset_of_record, strict=True
    )
  ]
  assert found == list(expected)
  assert len(files) == 25 + 6
  assert files.file_of_record.dtype == np.int32
  assert files.offset_of_record.dtype == np.int64
  place = f"record 1 of split 'validation', in {files.paths[-1]}"
  assert files.describe(26) == place


def test_index_follows_the_files(aircraft):
  """A data set prepared again is not read with the old index."""
  expected = record_files(aircraft, "test").offset_of_record
  cache = array_cache.cache_dir(aircraft, "records", SPEC.name, "test")
  index = {"file": np.zeros(11, np.int32), "offset": np.arange(11) + 3}
  array_cache.write_arrays(cache, index, [["1.0.0/another-test.tfrecord", 1]])
  np.testing.assert_array_equal(
    record_files(aircraft, "test").offset_of_record, expected
  )


def test_damaged_files_are_named(aircraft, tmp_path):
  data_dir = tmp_path / "data"
  shutil.copytree(aircraft, data_dir)
  builder = tfds_files.prepared_builder(SPEC, str(data_dir))
  (file,) = builder.info.splits["validation"].filepaths
  os.truncate(file, file.stat().length - 20)
  message = f"is damaged: {file.name} holds 5 of 6 records"
  with pytest.raises(catalog.DatasetError, match=message):
    record_files(str(data_dir), "train", "validation")
  file.unlink()
  message = f"is damaged: {file.name} is not there. Remove that directory"
  with pytest.raises(catalog.DatasetError, match=message):
    record_files(str(data_dir), "train", "validation")


def test_other_formats_are_refused(aircraft):
  builder = mock.MagicMock(data_path="DIR")
  builder.info.file_format.value = "array_record"
  with pytest.raises(catalog.DatasetError, match="array_record; only tfrecord"):
    tfrecords.RecordFiles(SPEC, builder, ("train",), aircraft)


def test_labels_are_read_once_and_checked(aircraft, monkeypatch):
  builder = tfds_files.prepared_builder(SPEC, aircraft)
  labels = tfrecords.load_labels(SPEC, builder, aircraft)
  splits = builder.as_dataset(split="train+validation")
  found = [int(example["label"]) for example in splits]
  assert sorted(labels) == sorted(found) and labels.dtype == np.int32
  monkeypatch.setattr(tfrecords, "_read_labels", None)  # they are cached
  again = tfrecords.load_labels(SPEC, builder, aircraft)
  np.testing.assert_array_equal(again, labels)
