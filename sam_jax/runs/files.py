"""Small files of a workdir, written so that a crash leaves old or new."""

import json
import os
import socket
from typing import Any

from etils import epath


def write_atomically(path: epath.PathLike, data: str | bytes) -> None:
  """Writes a file under another name, and renames it into place.

  Processes that write the same file do not get in each other's way.
  """
  path = epath.Path(path)
  writer = f"{socket.gethostname()}.{os.getpid()}"
  temporary = path.parent / f".{path.name}.{writer}.tmp"
  if isinstance(data, bytes):
    temporary.write_bytes(data)
  else:
    temporary.write_text(data)
  temporary.replace(path)


def write_json(path: epath.PathLike, value: Any) -> None:
  """Writes a value as readable JSON, atomically."""
  write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
