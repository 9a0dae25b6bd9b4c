"""The table of networks: options, images, parameters, FLOPs."""

import json
import pathlib

from sam_jax.models import registry, summary
from sam_jax.reports import markdown

# scripts/network_sizes.py writes it: to count all networks takes two minutes.
SIZES = pathlib.Path(__file__).with_name("sizes.json")


def stored_sizes() -> dict[str, dict[str, int]]:
  """Return what `count` returned for all networks that have a short name."""
  return json.loads(SIZES.read_text(encoding="utf-8"))["networks"]


def count(name: str) -> dict[str, int]:
  """Return the image_size, parameters and flops of a network.

  Raises:
    ValueError: The name is unknown.
  """
  side = registry.image_size(name) or 32
  model = registry.create_model(name, 10 if side <= 32 else 1000)
  size = summary.size(model, (side, side, 3))
  flops = round(size.flops or 0)
  return {"image_size": side, "parameters": size.parameters, "flops": flops}


def table(sizes: dict[str, dict[str, int]]) -> list[str]:
  """Return the lines of a table of networks, by what `count` returned."""
  header = ["network", "options", "image", "parameters", "GFLOPs"]
  rows = [
    [
      name,
      ", ".join(registry.options(name) or ()) or "-",
      f"{size['image_size']}x{size['image_size']}",
      f"{size['parameters']:,}",
      f"{size['flops'] / 1e9:.3g}",
    ]
    for name, size in sizes.items()
  ]
  return markdown.table(header, rows, text_columns=2)
