"""Downloads and prepares data sets, once, for all later runs.

python -m sam_jax.datasets.prepare cifar10 svhn --data_dir=DIR
"""

import sys

from absl import app, flags

from sam_jax.datasets import catalog

_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where to put them; default: $TFDS_DATA_DIR or TFDS's own."
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
  for spec in specs:
    builder = catalog.tfds_builder(spec, _DATA_DIR.value)
    builder.download_and_prepare()
    print(f"{spec.name}: {builder.data_path}")


if __name__ == "__main__":
  app.run(main)
