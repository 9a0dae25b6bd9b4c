"""Atomic writes of files, for workdirs and for files of no run.

A module of its own because reports and caches, which belong to no workdir, use
it too, and because it imports neither JAX nor the config.
"""

import json
import os
import socket
from collections.abc import Iterable
from typing import Any

from etils import epath

from sam_jax import paths


def write_atomically(
  path: epath.PathLike, data: str | bytes | Iterable[bytes]
) -> None:
  """Write a file atomically: readers see the old or the new content.

  Several processes may write the same file: the last one wins, and none leaves
  a mix of two contents. A crash of the machine leaves one of them, too.

  Args:
    path: Local or gs:// path in a directory that exists.
    data: New content of the file, or parts of it, which are not kept in memory
      if the file is local.
  """
  path = paths.resolve(path)
  data = data.encode() if isinstance(data, str) else data
  parts = [data] if isinstance(data, bytes) else data
  if paths.is_remote(path):
    # An object appears when its upload is complete.
    path.write_bytes(b"".join(parts))
    return
  writer = f"{socket.gethostname()}.{os.getpid()}"
  temporary = path.parent / f".{path.name}.{writer}.tmp"
  try:
    with open(temporary, "wb") as file:
      file.writelines(parts)
      file.flush()
      # Before the rename: the new name must not show blocks not yet written.
      os.fsync(file.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def write_json(path: epath.PathLike, value: Any) -> None:
  """Write a value as indented JSON with sorted keys, atomically."""
  write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
