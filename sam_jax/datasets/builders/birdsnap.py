"""Birdsnap as a TFDS data set."""

import logging
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from sam_jax import wording
from sam_jax.datasets import crops
from sam_jax.datasets.builders import published

logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Up to 49,829 photographs of 500 species of North American birds, 2,443 of them
in the test set. Many are no longer at their addresses: compare results only
with results on the same images.
"""

_CITATION = """\
@inproceedings{berg2014birdsnap,
  author = {Berg, Thomas and Liu, Jiongxin and Lee, Seung Woo and
            Alexander, Michelle L. and Jacobs, David W. and
            Belhumeur, Peter N.},
  title = {Birdsnap: Large-scale Fine-grained Visual Categorization of Birds},
  booktitle = {CVPR},
  year = {2014}
}
"""

_HOMEPAGE = "https://thomasberg.org/"
_ARCHIVE = _HOMEPAGE + "datasets/birdsnap/1.1/birdsnap.tgz"
# Of the loader in github.com/JonasGeiping/breaching; upstream publishes none.
_ARCHIVE_MD5 = "1788158175f6ae794aebf27bcd7a3f5d"


class Birdsnap(tfds.core.GeneratorBasedBuilder):
  """Photographs of any size, with the species as the label.

  The archive has the species, the split and the addresses of the images; the
  images come from a directory. Missing images are left out, and so are files
  that training can't decode, such as the error page of a server, or JPEG 2000
  under the name of a JPEG.
  """

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = """\
  Birdsnap's images belong to their owners and are not in its archive, which
  only lists their addresses at Flickr. Put the images that you have, or that
  the archive's get_birdsnap.py still finds (in its download/images), where
  images.txt expects them, one directory for each species:
  MANUAL_DIR/birdsnap/images/Acadian_Flycatcher/36125.jpg
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      citation=_CITATION,
      homepage=_HOMEPAGE,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(num_classes=500),
          "bbox": tfds.features.BBoxFeature(),
          "file_name": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    archive = published.fetch(dl_manager, _ARCHIVE, _ARCHIVE_MD5)
    lists = archive / "birdsnap"
    images = epath.Path(dl_manager.manual_dir) / "birdsnap" / "images"
    species = _read_table(lists / "species.txt")
    species.sort(key=lambda row: int(row["id"]))
    self.info.features["label"].names = [row["common"] for row in species]
    label_of_id = {row["id"]: i for i, row in enumerate(species)}
    tests = {row["path"] for row in _read_table(lists / "test_images.txt")}
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for row in _read_table(lists / "images.txt"):
      rows["test" if row["path"] in tests else "train"].append(row)
    return {
      split: self._generate_examples(rows[split], images, label_of_id)
      for split in rows
    }

  def _generate_examples(
    self,
    rows: list[dict[str, str]],
    images: epath.Path,
    label_of_id: dict[str, int],
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    missing, unreadable = 0, []
    for row in rows:
      path = images / row["path"]
      if not path.exists():
        missing += 1
        continue
      size = crops.decoded_size(path.read_bytes())
      if size is None:
        unreadable.append(row["path"])
        continue
      yield (
        row["path"],
        {
          "image": path,
          "label": label_of_id[row["species_id"]],
          "bbox": _bounding_box(row, *size),
          "file_name": row["path"],
        },
      )
    if missing:
      logger.warning("%s missing.", wording.part(missing, len(rows), "image"))
    if unreadable:
      logger.warning(
        "%s left out: TensorFlow can't decode them, %s first.",
        wording.part(len(unreadable), len(rows), "image"),
        unreadable[0],
      )
    if missing + len(unreadable) == len(rows):
      raise FileNotFoundError(
        f"{images} holds none of {len(rows)} images."
        f" {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )


def _read_table(path: epath.Path) -> list[dict[str, str]]:
  """Return the rows of a tab-separated file whose first line has the names."""
  header, *rows = path.read_text().splitlines()
  names = header.split("\t")
  return [dict(zip(names, row.split("\t"), strict=True)) for row in rows if row]


def _bounding_box(
  row: dict[str, str], height: int, width: int
) -> tfds.features.BBox:
  """Return the bird's box, from pixels to fractions of the image."""
  left, right = (float(row[f"bb_x{i}"]) / width for i in (1, 2))
  top, bottom = (float(row[f"bb_y{i}"]) / height for i in (1, 2))
  corners = (min(max(x, 0.0), 1.0) for x in (top, left, bottom, right))
  return tfds.features.BBox(*corners)
