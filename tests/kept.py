"""Results that tests keep between sessions, next to compiled programs."""

import importlib.metadata
import json
import os
import shutil
import zlib

from tests.processes import CACHE, REPOSITORY


def path(name, code, *packages):
  """Return where a result is kept that depends on code of this repository.

  Args:
    name: Of the result.
    code: Directory of the code; the result is computed again after a change.
    *packages: Packages that it depends on, too.
  """
  checksum = 0
  for file in sorted((REPOSITORY / code).rglob("*.py")):
    checksum = zlib.crc32(file.read_bytes(), checksum)
  for package in packages:
    version = importlib.metadata.version(package)
    checksum = zlib.crc32(version.encode(), checksum)
  return CACHE / f"{name}_{checksum:08x}"


def text(file, compute):
  """Return the text of a file; compute and write it if there is none."""
  if not file.exists():
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(compute())
    partial.replace(file)  # atomic: other processes may read it now
  return file.read_text()


def digits():
  """Return a data directory that holds the digits; nothing may change it.

  TensorFlow writes and decodes them, which takes seconds.
  """
  from sam_jax.datasets import catalog, in_memory

  directory = path("digits", "sam_jax/datasets", "tensorflow-datasets")
  if not directory.exists():
    partial = directory.with_suffix(f".{os.getpid()}")
    for split in ("train", "test"):
      in_memory.load_split(catalog.dataset_spec("digits"), split, str(partial))
    try:
      partial.rename(directory)
    except OSError:  # another process was faster
      shutil.rmtree(partial)
  return directory


def shapes(name, code, compute):
  """Return dicts of shapes of arrays by name, as `compute()` returns them."""
  trees = value(f"shapes/{name}", code, compute)
  return tuple({k: tuple(v) for k, v in tree.items()} for tree in trees)


def value(name, code, compute):
  """Return `compute()`, a value of JSON that depends on code, jax and flax."""
  kind, _, name = name.partition("/")
  file = path(kind, code, "jax", "flax") / f"{name}.json"
  return json.loads(text(file, lambda: json.dumps(compute())))
