"""ROOT/sweep.json: which runs a sweep is to have, begun or not.

{"runs": [names of directories in ROOT, sorted]}
"""

import json
from collections.abc import Iterable

from etils import epath

from sam_jax.config.schema import ConfigError
from sam_jax.runs import files

FILE = "sweep.json"


def read_plan(root: epath.PathLike) -> list[str]:
  """Returns the names of all runs that sweeps of a directory planned.

  Raises:
    ConfigError: The file is damaged.
  """
  file = epath.Path(root) / FILE
  if not file.exists():
    return []
  text = file.read_text()
  try:
    return [str(name) for name in json.loads(text)["runs"]]
  except (KeyError, TypeError, ValueError) as error:
    raise ConfigError(
      f"{file} is damaged. Remove it, and start the sweep again."
    ) from error


def add_to_plan(root: epath.PathLike, names: Iterable[str]) -> None:
  """Adds runs to the plan, which other shards may do at the same time.

  Raises:
    ConfigError: The file is damaged.
  """
  planned = sorted({*read_plan(root), *names})
  files.write_json(epath.Path(root) / FILE, {"runs": planned})
