"""Count the networks, for the table of `python -m sam_jax.models`.

python -m scripts.network_sizes

Run it after a change of networks, and `python -m scripts.pages` after it. It
takes two minutes.
"""

import json

from sam_jax.models import listing, registry
from scripts import provenance


def main() -> None:
  """Write the file."""
  names = [name for family in registry.families() for name in family.names]
  sizes = {name: listing.count(name) for name in names}
  made = provenance.describe(["python", "-m", "scripts.network_sizes"])
  text = json.dumps({"made": made, "networks": sizes}, indent=2)
  listing.SIZES.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
  main()
