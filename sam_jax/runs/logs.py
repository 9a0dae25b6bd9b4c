"""The log lines of this project, without those of its libraries."""

import logging

from absl import flags
from absl import logging as absl_logging


def show_on_stderr() -> None:
  """Shows this project's log lines; warnings only of others.

  For programs whose flags are parsed: `--verbosity` overrides it.
  """
  if not flags.FLAGS["verbosity"].present:
    absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(
    logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S")
  )
  logger = logging.getLogger("sam_jax")
  logger.setLevel(logging.INFO)
  logger.addHandler(handler)
  logger.propagate = False
