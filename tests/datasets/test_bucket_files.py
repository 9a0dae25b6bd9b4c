"""Data sets in a bucket equal local ones, and TensorFlow never goes there."""

import itertools
import json
import threading

import numpy as np
import pytest
from etils import epath
from fsspec.asyn import get_loop

from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog, in_memory, tfds_files
from sam_jax.datasets.catalog import DatasetError
from sam_jax.datasets.streaming import load_streaming
from sam_jax.training.input_pipeline import create_dataset
from tests import tiny
from tests.bucket import ROOT
from tests.datasets import archives

DATA = f"{ROOT}/tfds"
DIGITS = catalog.dataset_spec("digits")
AIRCRAFT = catalog.dataset_spec("fgvc_aircraft").with_image_size(8)


@pytest.fixture(scope="module")
def aircraft(tmp_path_factory):
  """Prepare a small FGVC-Aircraft locally."""
  downloads = tmp_path_factory.mktemp("downloads")
  archives.write_fgvc_aircraft(downloads, (9, 3, 4))
  data_dir = tmp_path_factory.mktemp("data")
  builder = tfds_files.tfds_builder(AIRCRAFT, str(data_dir))
  archives.prepare(builder, downloads)
  return data_dir


def stream(data_dir):
  return load_streaming(
    AIRCRAFT,
    data_dir=str(data_dir),
    validation_size=0,
    crops_at_random=True,
    seed=0,
    batch_size=6,
    eval_batch_size=6,
    noise_rate=0.5,
  )


def test_streamed_batches_equal_local_ones(bucket, aircraft):
  bucket.upload(aircraft / "fgvc_aircraft", "tfds/fgvc_aircraft")
  for _ in range(2):  # the index and the labels are in the bucket then
    local, remote = stream(aircraft), stream(DATA)
    streams = [
      (data.train_batches(0), data.eval_batches("test"))
      for data in (local, remote)
    ]
    for expected, found in zip(
      *([*itertools.islice(t, 3), *e] for t, e in streams), strict=True
    ):
      assert found.keys() == expected.keys()
      for name in found:
        np.testing.assert_array_equal(found[name], expected[name])
  assert bucket.names("tfds/sam_jax_cache/records/fgvc_aircraft/train/")
  assert bucket.names("tfds/sam_jax_cache/labels/fgvc_aircraft/train/")


def test_pipeline_may_end_in_the_thread_of_fsspec(bucket, aircraft):
  """There the garbage collector may find one that nobody uses any more."""
  bucket.upload(aircraft / "fgvc_aircraft", "tfds/fgvc_aircraft")
  batches = [stream(DATA).train_batches(0)]
  next(batches[0])
  bucket.latency = 0.1  # so that the pipeline is reading when it ends
  has_ended = threading.Event()
  get_loop().call_soon_threadsafe(lambda: (batches.clear(), has_ended.set()))
  assert has_ended.wait(30)


def test_damaged_record_is_named(bucket, aircraft):
  bucket.upload(aircraft / "fgvc_aircraft", "tfds/fgvc_aircraft")
  list(stream(DATA).eval_batches("test"))  # the file was whole
  (name,) = [n for n in bucket.names("tfds/fgvc") if "-test.tfrecord" in n]
  data = bytearray(bucket.read(name))
  data[len(data) // 2] ^= 1
  bucket.write(name, data)
  with pytest.raises(
    DatasetError, match=r"record 2 of split 'test'.*corrupted"
  ):
    list(stream(DATA).eval_batches("test"))


def test_permission_that_is_lost_is_one_line(bucket, aircraft):
  bucket.upload(aircraft / "fgvc_aircraft", "tfds/fgvc_aircraft")
  dataset = stream(DATA)
  bucket.fail(403, path=r"tfrecord.*alt=media")
  cause = "Data set 'fgvc_aircraft' can't be read: no permission: reader@"
  with pytest.raises(DatasetError, match=cause) as error:
    next(dataset.train_batches(0))
  assert "\n" not in str(error.value)


def test_data_set_is_prepared_and_decoded_in_the_bucket(bucket, digits_dir):
  expected = in_memory.load_split(DIGITS, "train", str(digits_dir))
  found = in_memory.load_split(DIGITS, "train", DATA)
  for name in expected:
    np.testing.assert_array_equal(found[name], expected[name])
  prepared = bucket.names("tfds/digits/1.0.0/")
  local = epath.Path(digits_dir) / "digits/1.0.0"
  assert [name.split("/")[-1] for name in prepared] == sorted(
    file.name for file in local.iterdir()
  )
  info = "tfds/digits/1.0.0/dataset_info.json"
  assert json.loads(bucket.read(info))["name"] == "digits"
  count = len(bucket.requests)
  again = in_memory.load_split(DIGITS, "train", DATA)
  np.testing.assert_array_equal(again["image"], expected["image"])
  assert not [r for r in bucket.requests[count:] if not r.startswith("GET")]

  # A process was killed while it uploaded the files.
  del bucket.objects[info]
  assert tfds_files.prepared_builder(DIGITS, DATA).info.splits
  assert bucket.names("tfds/digits/1.0.0/") == prepared


def test_bucket_that_does_not_exist(bucket):
  config = tiny.create_config()
  config.dataset.data_dir = "gs://other/tfds"
  cause = "config.dataset.data_dir=gs://other/tfds: there is no bucket"
  with pytest.raises(ConfigError, match=cause):
    create_dataset(config)
