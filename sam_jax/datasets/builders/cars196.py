"""Stanford Cars, TFDS's `cars196`, from files that its users have."""

from typing import Any

import tensorflow_datasets as tfds
from etils import epath


# Same name as TFDS's builder: data that TFDS's builder prepared still fit.
class Cars196(  # type: ignore[call-arg]
  tfds.image_classification.Cars196, skip_registration=True
):
  """TFDS's builder, with archives from a directory instead of downloads.

  Their only address, ai.stanford.edu/~jkrause/cars, is gone.
  """

  MANUAL_DOWNLOAD_INSTRUCTIONS = """\
  Stanford Cars can no longer be downloaded from Stanford. Put cars_train.tgz,
  cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat there, as
  they were published: the archives hold cars_train/00001.jpg,
  cars_test/00001.jpg and devkit/cars_train_annos.mat.
  """

  def _split_generators(self, dl_manager: Any) -> Any:
    return super()._split_generators(_ManualFiles(dl_manager))


class _ManualFiles:
  """A download manager that finds files instead of downloading them."""

  def __init__(self, dl_manager: Any):
    self._dl_manager = dl_manager

  def download_and_extract(self, urls: dict[str, str]) -> dict[str, epath.Path]:
    """Return the local files with the names in these URLs; extract archives.

    Args:
      urls: URLs by key.

    Returns:
      For each key, a file, or the directory of an extracted archive.

    Raises:
      FileNotFoundError: A file is missing.
    """
    directory = epath.Path(self._dl_manager.manual_dir)
    paths = {key: directory / url.split("/")[-1] for key, url in urls.items()}
    missing = [path.name for path in paths.values() if not path.exists()]
    if missing:
      raise FileNotFoundError(
        f"{directory} lacks {', '.join(missing)}."
        f" {Cars196.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    archives = {key: p for key, p in paths.items() if p.suffix == ".tgz"}
    return {**paths, **self._dl_manager.extract(archives)}
