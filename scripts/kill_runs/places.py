"""The place of a run: a local directory, or a bucket on this machine."""

import contextlib
import functools
import importlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Place:
  """A workdir, by default a local directory that needs not exist yet.

  Attributes:
    path: Local directory of the results.
    workdir: Value of --workdir.
    environment: Variables that its processes need.
  """

  def __init__(self, path: pathlib.Path):
    self.path, self.workdir = path, str(path)
    self.environment: Mapping[str, str] = {}

  def written(self) -> dict[str, float]:
    """Return names in the workdir and in checkpoints/, with times of change."""
    times: dict[str, float] = {}
    for directory in ("", "checkpoints/"):
      with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(self.path / directory):
          with contextlib.suppress(FileNotFoundError):  # renamed just now
            times[directory + entry.name] = entry.stat().st_ctime
    return times

  def fetch(self) -> pathlib.Path:
    """Return a local directory with the content of the workdir."""
    return self.path


class _InBucket(Place):
  """A directory of a bucket that this process serves."""

  def __init__(self, server: Any, path: pathlib.Path):
    super().__init__(path)
    self._server, self._prefix = server, f"{path.name}/"
    self.workdir = f"gs://bucket/{path.name}"
    self.environment = server.environment

  def written(self) -> dict[str, float]:
    times: dict[str, float] = {}
    with self._server.lock:
      objects = list(self._server.objects.values())
    for found in objects:
      if found.name.startswith(self._prefix):
        parts = found.name.removeprefix(self._prefix).split("/")
        name = "/".join(parts[: 2 if parts[0] == "checkpoints" else 1])
        times[name] = max(times.get(name, 0.0), found.updated)
    return times

  def fetch(self) -> pathlib.Path:
    for name in self._server.names(self._prefix):
      file = self.path / name.removeprefix(self._prefix)
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(self._server.read(name))
    return self.path


@contextlib.contextmanager
def places(in_bucket: bool) -> Iterator[Callable[[pathlib.Path], Place]]:
  """Yield a function that maps a local directory to the place of a run.

  Args:
    in_bucket: True to serve the tests' stand-in for Google Cloud Storage, from
      which results are then copied to the local directories.
  """
  if not in_bucket:
    yield Place
    return
  # Imported late: other kinds need no server.
  with importlib.import_module("tests.bucket").serve() as server:
    yield functools.partial(_InBucket, server)
