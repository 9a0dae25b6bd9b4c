"""Our TFDS builders under TFDS's own test case, on archives in their layout."""

import pathlib
import shutil
import tarfile
import tempfile
import types

import archives
import pytest
import tensorflow_datasets as tfds

from sam_jax.datasets import catalog
from sam_jax.datasets.builders import birdsnap, digits, fgvc_aircraft


def extracted(case, write, archive):
  """A test case's directory, with the contents of an archive of `write`."""
  directory = pathlib.Path(tempfile.mkdtemp())
  case.addClassCleanup(shutil.rmtree, directory)
  write(directory)
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
  SKIP_CHECKSUMS = True  # upstream publishes none

  @classmethod
  def setUpClass(cls):
    cls.EXAMPLE_DIR = extracted(
      cls, archives.write_fgvc_aircraft, "fgvc-aircraft-2013b.tar.gz"
    )
    super().setUpClass()


class BirdsnapTest(tfds.testing.DatasetBuilderTestCase):
  DATASET_CLASS = birdsnap.Birdsnap
  SPLITS = types.MappingProxyType({"train": 22, "test": 11})
  SKIP_CHECKSUMS = True  # upstream publishes none

  @classmethod
  def setUpClass(cls):
    cls.EXAMPLE_DIR = extracted(cls, archives.write_birdsnap, "birdsnap.tgz")
    super().setUpClass()


def test_aircraft_of_a_real_archive(tmp_path):
  archives.write_fgvc_aircraft(tmp_path)
  spec = catalog.dataset_spec("fgvc_aircraft")
  builder = catalog.tfds_builder(spec, str(tmp_path / "data"))
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


def test_birdsnap_without_images_says_where_they_belong(tmp_path):
  archives.write_birdsnap(tmp_path, missing=35)
  spec = catalog.dataset_spec("birdsnap")
  builder = catalog.tfds_builder(spec, str(tmp_path / "data"))
  with pytest.raises(FileNotFoundError, match="MANUAL_DIR/birdsnap/images"):
    archives.prepare(builder, tmp_path)
