"""List the data sets: classes, images, and where they come from.

python -m sam_jax.datasets

`python -m sam_jax.datasets.prepare NAME` prepares one, once. A directory or a
CSV file of your own images is image_folder, and needs no preparation. Those
without training images are for `python -m sam_jax.evaluate --data=NAME`.
"""

from sam_jax.config import cli
from sam_jax.datasets import listing


def main(argv: list[str]) -> None:
  """Print a row for each data set."""
  cli.check_arguments(argv)
  cli.show("\n".join(listing.table()))


if __name__ == "__main__":
  cli.run(main)
