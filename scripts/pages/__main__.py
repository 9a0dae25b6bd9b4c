"""Write the parts of README.md and docs/ that are made from data.

python -m scripts.pages [--check]

A part begins with `<!-- python -m scripts.pages: NAME -->` and ends with
`<!-- end -->`. Numbers come from docs/numbers, where `python -m scripts.record`
and `python -m scripts.benchmark --json=FILE` write them. --check writes
nothing. Exit codes: 1 with --check, a page is not what the data say; 2, a
mistake that one line describes.
"""

import sys

from absl import flags

from sam_jax.config import cli

_CHECK = flags.DEFINE_bool(
  "check", False, "Only tell which pages differ from the data."
)


def main(argv: list[str]) -> None:
  """Write the pages, or compare them."""
  cli.check_arguments(argv)
  from scripts.pages import parts

  old = {path: path.read_text(encoding="utf-8") for path in parts.pages()}
  try:
    new = {path: parts.fill(text) for path, text in old.items()}
  except parts.UnknownPartError as error:
    cli.refuse(str(error))
  changed = [path for path in old if old[path] != new[path]]
  for path in changed:
    if not _CHECK.value:
      path.write_text(new[path], encoding="utf-8")
    cli.show(f"{'Differs' if _CHECK.value else 'Written'}: {path}")
  if changed and _CHECK.value:
    sys.exit(1)


if __name__ == "__main__":
  cli.run(main)
