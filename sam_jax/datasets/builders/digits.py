"""The handwritten digits that scikit-learn ships, as a TFDS data set."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_DESCRIPTION = """\
1,797 images of handwritten digits, 8x8 pixels of 17 gray levels: the test set
of the UCI ML repository's optical recognition of handwritten digits, as
scikit-learn ships it.
"""

_CITATION = """\
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {{Optical Recognition of Handwritten Digits}},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  note = {{DOI}: https://doi.org/10.24432/C50P49}
}
"""


class Digits(tfds.core.GeneratorBasedBuilder):
  """Digits as uint8 images [8, 8, 1] in 0..255, labels 0..9.

  The split is fixed and stratified: of the images of each class, in
  scikit-learn's order, every fifth one belongs to the test set.
  """

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      citation=_CITATION,
      homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(8, 8, 1)),
          "label": tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # there is nothing to download
    return {
      "train": self._generate_examples(test=False),
      "test": self._generate_examples(test=True),
    }

  def _generate_examples(
    self, test: bool
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    from sklearn import datasets  # slow to import, and only needed here

    images, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8)
    seen_of_class = np.zeros(10, int)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      seen_of_class[label] += 1
      if (seen_of_class[label] % 5 == 0) == test:
        yield i, {"image": image, "label": int(label)}
