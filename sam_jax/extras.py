"""The packages that commands need, and a bare installation lacks."""

import sys
from importlib.util import find_spec


def check_command() -> None:
  """End a command of this package in one line if the extra [train] is missing.

  Programs that import the package are left alone.
  """
  words = sys.orig_argv
  start = words.index("-m") + 1 if "-m" in words else len(words)
  module = "".join(words[start : start + 1])
  # No package of the base requires ml_collections.
  if module.startswith("sam_jax.") and not find_spec("ml_collections"):
    print(
      f"error: {module} needs more packages: pip install 'sam-jax[train]'",
      file=sys.stderr,
    )
    sys.exit(2)
