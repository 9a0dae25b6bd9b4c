"""The table of data sets: classes, images, and where they come from."""

from sam_jax.datasets import catalog
from sam_jax.reports import markdown


def table() -> list[str]:
  """Return the lines of a table of data sets."""
  header = ["data set", "from", "classes", "image", "training images"]
  specs = map(catalog.dataset_spec, catalog.prepared_datasets())
  rows = [
    [
      spec.name,
      _source(spec),
      f"{spec.num_classes}",
      "x".join(map(str, spec.image_shape)),
      f"{spec.train_examples:,}" if spec.train_examples else "-",
    ]
    for spec in specs
  ]
  own = [catalog.IMAGE_FOLDER, "your own images", *["as given"] * 2, "-"]
  rows.append(own)
  return markdown.table(header, rows, text_columns=2)


def _source(spec: catalog.DatasetSpec) -> str:
  if spec.manual_files:
    return "files that you download"
  return "a download" if spec.needs_download else "an installed package"
