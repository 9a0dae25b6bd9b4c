"""CIFAR-10-C and CIFAR-100-C: test images with 19 corruptions.

The authors publish DIRECTORY/CORRUPTION.npy, uint8 [5 N, 32, 32, 3], for each
corruption: the N test images at severity 1, then at severity 2, up to 5; and
DIRECTORY/labels.npy, integers [5 N]. TFDS has CIFAR-10-C as cifar10_corrupted.

Reference: Hendrycks and Dietterich (ICLR 2019).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from sam_jax import buckets, paths
from sam_jax.datasets import array_cache, catalog, in_memory
from sam_jax.datasets.catalog import DatasetError, DatasetSpec
from sam_jax.datasets.in_memory import Concatenated

STANDARD = (
  *("gaussian_noise", "shot_noise", "impulse_noise"),
  *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
  *("snow", "frost", "fog", "brightness"),
  *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
# For the choice of hyperparameters, so that the others stay a test set.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = 5

_LABELS = "labels"
_TFDS_DIRECTORY = "cifar10_corrupted"
_TFDS_NAMES = {
  "glass_blur": "frosted_glass_blur",
  "elastic_transform": "elastic",
}

# Images uint8 [5 N, H, W, C] and labels int32 [5 N], by severity.
Examples = tuple[Any, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Published:
  """Description of the published files of a data set."""

  clean: str  # the data set whose test images are corrupted
  directory: str
  source: str


_PUBLISHED = {
  "cifar10_c": _Published(
    "cifar10", "CIFAR-10-C", "zenodo.org/records/2535967"
  ),
  "cifar100_c": _Published(
    "cifar100", "CIFAR-100-C", "zenodo.org/records/3555552"
  ),
}
NAMES = tuple(_PUBLISHED)


@dataclasses.dataclass(frozen=True)
class CorruptedImages:
  """The corrupted test images of a data set.

  Attributes:
    spec: Classes and shape of the images.
    path: Directory of the files.
    load: Returns the examples of a corruption.
  """

  spec: DatasetSpec
  path: epath.Path
  load: Callable[[str], Examples]


def corrupted_spec(name: str) -> DatasetSpec:
  """Return the description of a data set of corrupted images.

  Args:
    name: One of `NAMES`.
  """
  clean = catalog.dataset_spec(_PUBLISHED[name].clean)
  return dataclasses.replace(clean, name=name)


def find(name: str, data_dir: str | None) -> CorruptedImages:
  """Find the files of a data set of corrupted images.

  Args:
    name: One of `NAMES`.
    data_dir: Directory that holds CIFAR-10-C, CIFAR-100-C or TFDS's
      cifar10_corrupted; None for TFDS's default.

  Raises:
    DatasetError: A file is missing, or is not what was published.
  """
  spec, published = corrupted_spec(name), _PUBLISHED[name]
  if data_dir:
    buckets.check(data_dir, "--data_dir")
  root = array_cache.data_root(data_dir)
  directory = root / published.directory
  if directory.is_dir():
    load = functools.partial(_load_published, spec, directory)
    for corruption in (*STANDARD, *EXTRA):
      if paths.is_remote(directory):
        _check_exists(_file(directory, corruption))
      else:
        load(corruption)  # maps the file into memory
    return CorruptedImages(spec, directory, load)
  prepared = root / _TFDS_DIRECTORY
  if name == "cifar10_c" and prepared.is_dir():
    for corruption in (*STANDARD, *EXTRA):
      for severity in range(1, SEVERITIES + 1):
        _check_exists(prepared / _tfds_config(corruption, severity))
    load = functools.partial(_load_prepared, spec, data_dir)
    return CorruptedImages(spec, prepared, load)
  raise DatasetError(
    f"Data set {name!r}: there is no {directory}. Unpack"
    f" {published.directory}.tar of https://{published.source} in {root}, or"
    " give --data_dir."
  )


def _file(directory: epath.Path, name: str) -> epath.Path:
  return directory / f"{name}.npy"


def _tfds_config(corruption: str, severity: int) -> str:
  return f"{_TFDS_NAMES.get(corruption, corruption)}_{severity}"


def _check_exists(path: epath.Path) -> None:
  if not path.exists():
    raise DatasetError(f"{path} is missing. Fetch the whole data set again.")


def _load_published(
  spec: DatasetSpec, directory: epath.Path, corruption: str
) -> Examples:
  """Read the published files of a corruption; map local ones into memory."""
  labels = _read(_file(directory, _LABELS))
  count = len(labels) if labels.ndim == 1 else 0
  if not count or count % SEVERITIES or labels.dtype.kind not in "iu":
    raise _differs(
      _file(directory, _LABELS), labels, f"integers of {SEVERITIES} severities"
    )
  path = _file(directory, corruption)
  images, shape = _read(path), (count, *spec.image_shape)
  if images.dtype != np.uint8 or images.shape != shape:
    raise _differs(path, images, f"uint8{list(shape)}")
  return images, labels.astype(np.int32)


def _read(path: epath.Path) -> np.ndarray:
  """Read an array, never a pickle.

  Raises:
    DatasetError: The file is missing, is damaged or holds no array.
  """
  _check_exists(path)
  try:
    return array_cache.read_array(path)
  except (OSError, EOFError, ValueError) as error:
    cause = paths.describe_error(error)
    raise DatasetError(
      f"{path} can't be read: {cause}. Fetch it again."
    ) from error


def _differs(path: epath.Path, found: np.ndarray, wanted: str) -> DatasetError:
  return DatasetError(
    f"{path} holds {found.dtype}{list(found.shape)}, not {wanted}. Fetch it"
    " again."
  )


def _load_prepared(
  spec: DatasetSpec, data_dir: str | None, corruption: str
) -> Examples:
  """Load the severities of a corruption that TFDS has prepared."""
  parts = []
  for severity in range(1, SEVERITIES + 1):
    config = _tfds_config(corruption, severity)
    of_severity = dataclasses.replace(
      spec,
      name=f"{spec.name}_{config}",
      tfds_name=f"{_TFDS_DIRECTORY}/{config}",
    )
    parts.append(in_memory.load_split(of_severity, "test", data_dir))
  labels = np.concatenate([part["label"] for part in parts])
  return Concatenated([part["image"] for part in parts]), labels
