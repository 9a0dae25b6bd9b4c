"""Our TFDS builders in TFDS's own test case, on archives in their layout."""

import io
import pathlib
import shutil
import tarfile
import tempfile
import types
from unittest import mock

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sam_jax.datasets import catalog, crops, tfds_files
from sam_jax.datasets.builders import (
  birdsnap,
  cars196,
  digits,
  fgvc_aircraft,
  published,
)
from tests.datasets import archives


def written(case, write):
  """Return a test case's directory, with the archives of `write`."""
  directory = pathlib.Path(tempfile.mkdtemp())
  case.addClassCleanup(shutil.rmtree, directory)
  write(directory)
  return directory


def extracted(case, write, archive):
  """Return the same, with the contents of one of the archives."""
  directory = written(case, write)
  with tarfile.open(directory / archive) as tar:
    tar.extractall(directory, filter="data")
  return directory


class DigitsTest(tfds.testing.DatasetBuilderTestCase):
  DATASET_CLASS = digits.Digits
  EXAMPLE_DIR = tempfile.gettempdir()  # there are no files
  SPLITS = types.MappingProxyType({"train": 1442, "test": 355})


class FgvcAircraftTest(tfds.testing.DatasetBuilderTestCase):
  DATASET_CLASS = fgvc_aircraft.FgvcAircraft
  SPLITS = types.MappingProxyType({"train": 16, "validation": 8, "test": 11})
  SKIP_CHECKSUMS = True  # its MD5 is known, not the SHA-256 that TFDS compares

  @classmethod
  def setUpClass(cls):
    cls.enterClassContext(
      mock.patch.object(published, "fetch", archives.fetch_unchecked)
    )
    cls.EXAMPLE_DIR = extracted(
      cls, archives.write_fgvc_aircraft, "fgvc-aircraft-2013b.tar.gz"
    )
    super().setUpClass()


class BirdsnapTest(tfds.testing.DatasetBuilderTestCase):
  DATASET_CLASS = birdsnap.Birdsnap
  SPLITS = types.MappingProxyType({"train": 22, "test": 11})
  SKIP_CHECKSUMS = True  # its MD5 is known, not the SHA-256 that TFDS compares

  @classmethod
  def setUpClass(cls):
    cls.enterClassContext(
      mock.patch.object(published, "fetch", archives.fetch_unchecked)
    )
    cls.EXAMPLE_DIR = extracted(cls, archives.write_birdsnap, "birdsnap.tgz")
    super().setUpClass()


class Cars196Test(tfds.testing.DatasetBuilderTestCase):
  DATASET_CLASS = cars196.Cars196
  SPLITS = types.MappingProxyType({"train": 16, "test": 11})

  @classmethod
  def setUpClass(cls):
    # The archives themselves: nothing is downloaded.
    cls.EXAMPLE_DIR = written(cls, archives.write_stanford_cars)
    super().setUpClass()


def test_aircraft_of_a_real_archive(tmp_path):
  archives.write_fgvc_aircraft(tmp_path)
  spec = catalog.dataset_spec("fgvc_aircraft")
  builder = tfds_files.tfds_builder(spec, str(tmp_path / "data"))
  archives.prepare(builder, tmp_path)
  examples = {
    e["file_name"].decode(): e
    for e in tfds.as_numpy(builder.as_dataset(split="train"))
  }
  features = builder.info.features
  second = examples["1025795.jpg"]
  assert features["label"].int2str(second["label"]) == "Global Express"
  maker = features["manufacturer"].int2str(second["manufacturer"])
  assert maker == "Bombardier Aerospace"
  assert second["image"].shape == (60, 80, 3)


def test_cars_are_those_of_tfds(tmp_path):
  archives.write_stanford_cars(tmp_path)
  (tmp_path / "cars_test.tgz").rename(tmp_path / "elsewhere")
  spec = catalog.dataset_spec("stanford_cars")
  builder = tfds_files.tfds_builder(spec, str(tmp_path / "data"))
  with pytest.raises(FileNotFoundError, match=r"lacks cars_test\.tgz\."):
    archives.prepare(builder, tmp_path)
  (tmp_path / "elsewhere").rename(tmp_path / "cars_test.tgz")
  archives.prepare(builder, tmp_path)
  tfds_own = tfds.builder("cars196", data_dir=str(tmp_path / "data"))
  names = builder.info.features["label"].names
  labels = {
    e["id"].decode(): names[e["label"]]
    for e in tfds.as_numpy(tfds_own.as_dataset(split="train"))
  }
  assert labels["00001"] == "AM General Hummer SUV 2000"
  assert labels["00016"] == "Audi V8 Sedan 1994"


def test_birdsnap_without_images_says_where_they_belong(tmp_path):
  archives.write_birdsnap(tmp_path, missing=36)
  spec = catalog.dataset_spec("birdsnap")
  builder = tfds_files.tfds_builder(spec, str(tmp_path / "data"))
  with pytest.raises(FileNotFoundError, match="MANUAL_DIR/birdsnap/images"):
    archives.prepare(builder, tmp_path)


def test_birdsnap_leaves_out_what_training_cannot_decode(tmp_path, caplog):
  """Servers send other formats under the name of a JPEG."""
  archives.write_birdsnap(tmp_path)
  files = sorted((tmp_path / "birdsnap/images/Bird_1").iterdir())
  image = Image.open(io.BytesIO(archives.photo(60, 80)))
  formats = ("JPEG2000", "TIFF", "ICO", "WEBP", "BMP", "GIF", "PNG")
  for path, image_format in zip(files[:7], formats, strict=True):
    image.save(path.open("wb"), image_format)
  files[7].write_bytes(files[7].read_bytes()[:-300])  # gray below
  spec = catalog.dataset_spec("birdsnap")
  builder = tfds_files.tfds_builder(spec, str(tmp_path / "data"))
  archives.prepare(builder, tmp_path)
  kept = set()
  for split in ("train", "test"):
    records = builder.as_dataset(
      split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    for example in tfds.as_numpy(records):
      assert crops.center_crop(example["image"], 32).shape == (32, 32, 3)
      kept.add(example["file_name"].decode())
  names = {f"Bird_1/{path.name}" for path in files}
  left_out = {f"Bird_1/{path.name}" for path in files[:3]}
  assert len(kept) == 36 - 3 - 3
  assert names - kept == left_out | (names & {"Bird_1/0.jpg"})
  assert "1 of 25 images is missing." in caplog.text
  # Two files of the archive's writer are no images at all.
  assert (
    "5 of 25 images are left out: TensorFlow can't decode them, Bird_2/1.jpg"
    in caplog.text
  )
