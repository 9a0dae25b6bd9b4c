"""Downloads and prepares data sets, once, for all later runs.

python -m sam_jax.datasets.prepare cifar10 svhn --data_dir=DIR

Some files can't be downloaded: put them into --manual_dir first.

  imagenet2012   ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar
  birdsnap       birdsnap/images, the images that Flickr still had
  stanford_cars  cars_train.tgz, cars_test.tgz, car_devkit.tgz,
                 cars_test_annos_withlabels.mat
  cifar10_n      CIFAR-10_human_annotations.csv, side_info_cifar10N.csv,
                 image_order_c10.npy
  cifar100_n     CIFAR-100_human_annotations.csv, side_info_cifar100N.csv,
                 image_order_c100.npy
"""

import sys
from typing import Any

from absl import app, flags, logging

from sam_jax.datasets import catalog, in_memory, tfds_files

_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where to put them; default: $TFDS_DATA_DIR or TFDS's own."
)
_MANUAL_DIR = flags.DEFINE_string(
  "manual_dir",
  None,
  "Where files are that can't be downloaded; default: downloads/manual in the"
  " data directory.",
)
_REGISTER_CHECKSUMS = flags.DEFINE_bool(
  "register_checksums",
  False,
  "Record size and SHA-256 of what is downloaded by our own builders, for"
  " later downloads to be checked against.",
)


def main(argv: list[str]) -> None:
  """Prepares the data sets that the command line names."""
  try:
    specs = [catalog.dataset_spec(name) for name in argv[1:]]
  except catalog.DatasetError as error:
    sys.exit(f"error: {error}")
  if not specs:
    known = ", ".join(catalog.known_datasets())
    sys.exit(f"error: name the data sets to prepare: {known}")
  logging.set_verbosity(logging.WARNING)  # TFDS tells every step of its work
  for spec in specs:
    builder = tfds_files.tfds_builder(spec, _DATA_DIR.value)
    try:
      _prepare(spec, builder)
    except Exception as error:  # TFDS raises all kinds
      sys.exit(f"error: {spec.name} can't be prepared: {error}")
    print(f"{spec.name}: {builder.data_path}")


def _prepare(spec: catalog.DatasetSpec, builder: Any) -> None:
  """Makes TFDS's files and, of small data sets, the decoded arrays."""
  import tensorflow_datasets as tfds

  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(
      manual_dir=_MANUAL_DIR.value,
      register_checksums=_REGISTER_CHECKSUMS.value,
    )
  )
  for split in (*spec.train_splits, spec.test_split):
    if spec.storage == catalog.IN_MEMORY:
      in_memory.load_split(spec, split, _DATA_DIR.value)
    else:
      tfds_files.split_info(spec, builder, split)


if __name__ == "__main__":
  app.run(main)
