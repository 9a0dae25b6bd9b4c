"""List the networks: options, images, parameters, FLOPs.

python -m sam_jax.models [NAME ...]

Without names: all that have a short name. NAME may be another member of a
family, such as wrn22_8, or a network of your own, my_models:Perceptron. There
are 10 classes for images of up to 32 pixels, else 1000. FLOPs are those of one
image's forward pass; a multiplication and an addition are two.
"""

from sam_jax.config import cli
from sam_jax.models import listing, registry


def main(argv: list[str]) -> None:
  """Print a row for each network."""
  if argv[1:]:
    try:
      sizes = {name: listing.count(name) for name in argv[1:]}
    except ValueError as error:
      cli.refuse(str(error))
    cli.show("\n".join(listing.table(sizes)))
    return
  lines = listing.table(listing.stored_sizes())
  general = [f.general_name for f in registry.families() if f.general_name]
  cli.show("\n".join([*lines, "", f"Also any {', '.join(general)}."]))


if __name__ == "__main__":
  cli.run(main)
