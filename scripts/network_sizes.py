"""Count the networks, for the table of `python -m sam_jax.models`.

python -m scripts.network_sizes

Run it after a change of networks. It takes two minutes, and prints the table of
docs/models.md.
"""

import json

from sam_jax.models import __main__ as command
from sam_jax.models import registry


def main() -> None:
  """Write the file, and print the table."""
  names = [name for family in registry.families() for name in family.names]
  sizes = {name: command.count(name) for name in names}
  text = json.dumps(sizes, indent=2)
  command.SIZES.write_text(f"{text}\n", encoding="utf-8")
  print("\n".join(command.table(sizes)))


if __name__ == "__main__":
  main()
