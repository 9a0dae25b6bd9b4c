"""Recognition of a file with weights by its content."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence

from etils import epath

from sam_jax import paths
from sam_jax.pretrained import (
  flax_files,
  keras_files,
  npz_files,
  safetensors_files,
  tensorflow_files,
)
from sam_jax.pretrained.checkpoint import (
  NO_PICKLES,
  READABLE,
  Checkpoint,
  CheckpointError,
)

_INDEX = ".index"
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
# The last bytes of a TensorFlow checkpoint's index, as of LevelDB's tables.
_TABLE = bytes.fromhex("57fb808b247547db")
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Packages that read a format, and may be missing.
_LIBRARIES = {
  "safetensors": "safetensors",
  "HDF5": "h5py",
  "TensorFlow": "tensorflow",
}
# What users have in place of a checkpoint, by its first bytes.
_OTHERS = {
  **dict.fromkeys(
    (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    f"a pickle, as older versions of PyTorch write. {NO_PICKLES}",
  ),
  b"\x1f\x8b": "a compressed archive. Unpack it with tar -xzf, and give what is"
  " in it.",
  b"version https://git-lfs": "a pointer of Git LFS. Fetch the file with git"
  " lfs pull.",
  **dict.fromkeys(
    (b"<!", b"<?xml", b"<html", b"<HTML"), f"a web page. {READABLE}"
  ),
}


def read_checkpoint(
  path: str | os.PathLike, *, use_ema: bool = True
) -> Checkpoint:
  """Read weights of any format, except those of a run.

  Args:
    path: A file, or a directory with one, local or `gs://`; of a TensorFlow
      checkpoint also the common beginning of its files.
    use_ema: Take the moving averages if there are any, as the official
      evaluation does.

  Returns:
    The arrays, float32.

  Raises:
    OSError: The file cannot be read.
    CheckpointError: The file is damaged, or of no known format.
  """
  file, name = find_file(path), os.fspath(path)
  kind = recognize(path)
  if kind is None:
    return flax_files.read(file.read_bytes(), name, use_ema=use_ema)
  with _reading(file, kind) as local:
    match kind:
      case "safetensors":
        return safetensors_files.read(local, name)
      case "HDF5":
        return keras_files.read(local, name)
      case "TensorFlow":
        return tensorflow_files.read(local, name, use_ema=use_ema)
      case _:
        return npz_files.read(local, name)


def recognize(path: str | os.PathLike) -> str | None:
  """Return the format of a file; None for what is probably Flax's.

  Args:
    path: See `read_checkpoint`. Only the beginning and the end are read.

  Raises:
    OSError: The file cannot be read.
    CheckpointError: It is of a format that no reader here opens.
  """
  file = find_file(path)
  with file.open("rb") as stream:
    head = stream.read(64)
    stream.seek(max(0, file.stat().length - len(_TABLE)))
    tail = stream.read()
  # The length of a header, and the header as JSON.
  if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
    return "safetensors"
  if head.startswith(_HDF5):
    return "HDF5"
  if head.startswith(_ZIP):
    # A damaged archive is reported where it is read.
    with contextlib.suppress(zipfile.BadZipFile), file.open("rb") as stream:
      _refuse_other_archives(zipfile.ZipFile(stream).namelist(), file)
    return "zip"
  if tail == _TABLE:
    return "TensorFlow"
  for start, text in _OTHERS.items():
    if head.startswith(start):
      raise CheckpointError(f"{file} is {text}")
  return None


def find_file(path: str | os.PathLike) -> epath.Path:
  """Return the file that a path of weights means.

  Args:
    path: A file, a directory, or the beginning of a TensorFlow checkpoint.

  Raises:
    CheckpointError: It is a directory without a file of a known name, or with
      several.
  """
  file = paths.resolve(path)
  if file.is_dir():
    return _file_in(file)
  index = file.parent / f"{_DATA.sub('', file.name)}{_INDEX}"
  is_part = _DATA.search(file.name) or not file.exists()
  return index if is_part and index.exists() else file


def exists(path: str | os.PathLike) -> bool:
  """Return True if a path is a file, a directory or a TensorFlow checkpoint."""
  file = paths.resolve(path)
  return file.exists() or find_file(file).exists()


def holds_weights(directory: epath.Path) -> bool:
  """Return True if weights of another library are in a directory."""
  return bool(_weights_in(directory))


def _weights_in(directory: epath.Path) -> list[str]:
  """Return names of files: that of the Hugging Face hub, and indices."""
  names = sorted(path.name for path in directory.iterdir())
  hub = [name for name in names if name == "model.safetensors"]
  return hub or [name for name in names if name.endswith(_INDEX)]


def _file_in(directory: epath.Path) -> epath.Path:
  """Return the file with weights in a directory.

  Raises:
    CheckpointError: There is none, or there are several.
  """
  found = _weights_in(directory)
  if len(found) == 1:
    return directory / found[0]
  official = [p.name for p in directory.glob("checkpoint_*") if p.is_file()]
  if found or official:
    names = sorted(found or official)
    raise CheckpointError(
      f"{directory} is a directory; give the checkpoint file in it,"
      f" {names[-1]}."
    )
  raise CheckpointError(
    f"{directory} is a directory without model.safetensors, the .index of a"
    f" TensorFlow checkpoint or a file checkpoint_0. {READABLE}"
  )


@contextlib.contextmanager
def _reading(file: epath.Path, kind: str) -> Iterator[pathlib.Path]:
  """Yield a local path of a file to read, and report errors in one line.

  Args:
    file: The file, local or `gs://`.
    kind: Its format.

  Raises:
    CheckpointError: The file is damaged, or the library is missing.
  """
  with contextlib.ExitStack() as stack:
    local = pathlib.Path(file)
    if paths.is_remote(file):
      directory = stack.enter_context(tempfile.TemporaryDirectory())
      local = _copy(file, pathlib.Path(directory))
    try:
      yield local
    except ModuleNotFoundError as error:
      if error.name != _LIBRARIES.get(kind):
        raise
      raise CheckpointError(
        f"{file} is a {kind} file, and the package {error.name} is missing:"
        " pip install 'sam-jax[train]'."
      ) from error
    except CheckpointError:
      raise
    except Exception as error:  # of a library
      of_disk = isinstance(error, OSError) and error.errno
      if of_disk or isinstance(error, MemoryError):
        raise
      cause = " ".join(str(error).split()) or type(error).__name__
      raise CheckpointError(
        f"{file} is a damaged {kind} file ({cause[:200]}). Fetch it again and"
        " compare its size with the original's."
      ) from error


def _copy(file: epath.Path, directory: pathlib.Path) -> pathlib.Path:
  """Copy a remote file and what belongs to it; return the copy."""
  beginning = file.name.removesuffix(_INDEX)
  for each in file.parent.iterdir():
    is_part = _DATA.sub("", each.name) == beginning and each != file
    if each.name in (file.name, "config.json") or is_part:
      target = directory / each.name
      with each.open("rb") as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 24)
  return directory / file.name


def _refuse_other_archives(names: Sequence[str], file: epath.Path) -> None:
  """Raise an error for a zip archive that is no .npz file.

  Args:
    names: The files in it.
    file: The archive, for messages.

  Raises:
    CheckpointError: See above.
  """
  if any(name.endswith(".pkl") for name in names):
    raise CheckpointError(f"{file} is an archive of PyTorch. {NO_PICKLES}")
  if "model.weights.h5" in names:
    raise CheckpointError(
      f"{file} is a model of Keras. Unpack it with unzip, and give the"
      " model.weights.h5 in it."
    )
  if not all(name.endswith(".npy") for name in names):
    raise CheckpointError(f"{file} is a zip archive. {READABLE}")
