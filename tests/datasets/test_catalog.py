"""The table of data sets, and how a spec compares itself with data."""

import dataclasses

import numpy as np
import pytest

from sam_jax.datasets import catalog, tfds_files

CIFAR = catalog.dataset_spec("cifar10")
IMAGENET = catalog.dataset_spec("imagenet2012")


NAMES = catalog.prepared_datasets()
TEST_SETS = catalog.evaluation_sets()


@pytest.mark.parametrize("name", NAMES)
def test_every_spec_is_consistent(name):
  spec = catalog.dataset_spec(name)
  channels = spec.image_shape[-1]
  assert len(spec.mean) == len(spec.std) == channels
  has_test_set_alone = spec.train_splits == (spec.test_split,)
  assert has_test_set_alone == (name in TEST_SETS)
  assert (spec.test_split in spec.train_splits) == has_test_set_alone
  assert (name in catalog.known_datasets()) != has_test_set_alone
  assert spec.label_column in spec.label_columns
  builder = tfds_files.tfds_builder(spec, None)
  label = builder.info.features[spec.clean_label_column]
  assert label.num_classes == spec.num_classes
  assert str(builder.data_path.parent).endswith(f"/{spec.directory}")
  assert bool(spec.manual_files) == bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)
  for column in spec.label_columns:
    assert column in builder.info.features
  spec.check_image_shape(builder.info.features["image"].shape)
  if spec.storage == catalog.IN_MEMORY:
    assert builder.info.features["image"].shape == spec.image_shape


@pytest.mark.parametrize(
  ("name", "hint"),
  [("cifra10", " Did you mean 'cifar10'?"), ("q", "")],
)
def test_unknown_name_lists_the_known_ones(name, hint):
  with pytest.raises(catalog.DatasetError) as error:
    catalog.dataset_spec(name)
  known = ", ".join(catalog.prepared_datasets())
  assert (
    str(error.value) == f"Data set {name!r} is unknown. Known: {known}.{hint}"
  )


@pytest.mark.parametrize(
  ("spec", "stored", "found"),
  [
    (
      CIFAR,
      (28, 32, 3),
      "image_shape = (32, 32, 3), but its data have (28, 32",
    ),
    (
      CIFAR,
      (32, 32, 1),
      "image_shape = (32, 32, 3), but its data have (32, 32",
    ),
    (CIFAR.with_image_size(64), (32, 32, 1), "(64, 64, 3), but its data have"),
    (CIFAR, (None, None, 3), "storage = 'memory', but its data have images of"),
    (CIFAR, None, "storage = 'memory', but its data have images of different"),
    (
      dataclasses.replace(IMAGENET, image_shape=(224, 224, 1)),
      (None, None, 3),
      "image_shape = (224, 224, 1), but its data have (224, 224, 3)",
    ),
    (
      dataclasses.replace(IMAGENET, image_shape=(224, 192, 3)),
      (None, None, 3),
      "image_shape = (224, 192, 3), but its data have (224, 224, 3)",
    ),
  ],
)
def test_image_shape_that_the_data_do_not_have(spec, stored, found):
  with pytest.raises(catalog.DatasetError) as error:
    spec.check_image_shape(stored)
  message = str(error.value)
  assert message.startswith(f"Data set {spec.name!r}: its DatasetSpec says ")
  assert found in message and "\n" not in message
  assert message.endswith("Correct the DatasetSpec, or prepare the data again.")


def test_image_shapes_that_fit():
  CIFAR.check_image_shape((32, 32, 3))
  CIFAR.with_image_size(80).check_image_shape((32, 32, 3))
  IMAGENET.check_image_shape((None, None, 3))
  IMAGENET.with_image_size(64).check_image_shape(None)
  # The host turns grayscale images into three channels.
  IMAGENET.check_image_shape((28, 28, 1))


@pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
def test_labels_out_of_range(labels):
  message = (
    f"'cifar10': its DatasetSpec says num_classes = 10, but its data have"
    f" labels from {labels[0]} to {labels[1]}. Correct"
  )
  with pytest.raises(catalog.DatasetError, match=message):
    CIFAR.check_labels(np.array(labels))


def test_labels_in_range():
  CIFAR.check_labels(np.arange(10))
  CIFAR.check_labels(np.array([], int))
