"""Names of the classes of a data set, without loading TFDS."""

from sam_jax.datasets import array_cache
from sam_jax.datasets.catalog import DatasetSpec


def class_names(spec: DatasetSpec, data_dir: str | None) -> tuple[str, ...]:
  """Return the names of the classes, in the order of their labels.

  TFDS writes them next to the data that it prepares, if the classes have names.

  Args:
    spec: The data set.
    data_dir: TFDS's data directory; None for its default.

  Returns:
    The names, or the numbers of the classes as text.
  """
  if spec.class_names:
    return spec.class_names
  directory = array_cache.data_root(data_dir) / spec.directory
  for file in sorted(
    directory.glob(f"[0-9]*/{spec.clean_label_column}.labels.txt")
  ):
    names = tuple(file.read_text().split("\n"))
    names = names[:-1] if names[-1] == "" else names
    if len(names) == spec.num_classes:
      return names
  return tuple(map(str, range(spec.num_classes)))
