"""FGVC-Aircraft as a TFDS data set."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from sam_jax.datasets.builders import published

_DESCRIPTION = """\
10,000 photographs of aircraft, 100 for each of 100 variants such as Boeing
737-700. The bottom 20 rows of each photograph name its owner.
"""

_CITATION = """\
@techreport{maji2013fine,
  author = {Maji, S. and Kannala, J. and Rahtu, E. and Blaschko, M. and
            Vedaldi, A.},
  title = {Fine-Grained Visual Classification of Aircraft},
  year = {2013},
  eprint = {1306.5151},
  archivePrefix = {arXiv}
}
"""

_HOMEPAGE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
_ARCHIVE = _HOMEPAGE + "archives/fgvc-aircraft-2013b.tar.gz"
# Published next to the archive, and the same in the loader of
# github.com/google-deepmind/dm_nevis.
_ARCHIVE_MD5 = "d4acdd33327262359767eeaa97a4f732"

# For each feature, the file of its classes, and its name in lists of images.
_CLASSES = {
  "label": "variants.txt",
  "family": "families.txt",
  "manufacturer": "manufacturers.txt",
}
_LISTS = {
  "label": "variant",
  "family": "family",
  "manufacturer": "manufacturer",
}
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


class FgvcAircraft(tfds.core.GeneratorBasedBuilder):
  """Photographs of any size, with the variant of the aircraft as the label.

  The official splits have 3,334, 3,333 and 3,333 images; results are commonly
  reported for training on the first two.
  """

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      citation=_CITATION,
      homepage=_HOMEPAGE,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(num_classes=100),
          "family": tfds.features.ClassLabel(num_classes=70),
          "manufacturer": tfds.features.ClassLabel(num_classes=30),
          "file_name": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    archive = published.fetch(dl_manager, _ARCHIVE, _ARCHIVE_MD5)
    data = archive / "fgvc-aircraft-2013b" / "data"
    for feature, file in _CLASSES.items():
      names = (data / file).read_text().splitlines()
      self.info.features[feature].names = [name.strip() for name in names]
    return {
      split: self._generate_examples(data, name)
      for split, name in _SPLITS.items()
    }

  def _generate_examples(
    self, data: epath.Path, split: str
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    classes = {
      feature: _read_list(data / f"images_{name}_{split}.txt")
      for feature, name in _LISTS.items()
    }
    for number in classes["label"]:
      file_name = f"{number}.jpg"
      labels = {feature: names[number] for feature, names in classes.items()}
      image = data / "images" / file_name
      yield number, {"image": image, "file_name": file_name, **labels}


def _read_list(path: epath.Path) -> dict[str, str]:
  """Return the class of each image, from lines "1025794 Global Express"."""
  lines = path.read_text().splitlines()
  return dict(line.strip().split(" ", 1) for line in lines if line.strip())
