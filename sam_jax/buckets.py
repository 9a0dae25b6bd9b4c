"""Access to buckets: checked once, in seconds, before any other work.

The clients of a bucket retry for minutes, which is right while a run trains and
wrong for a mistake in a path.
"""

import errno
import re
import threading
from collections.abc import Iterable
from typing import Any

from etils import epath

from sam_jax import paths
from sam_jax.config.field_type import ConfigError

_RETRY_SECONDS = 10.0
# Finding credentials asks a server that only machines of Google have.
_ANSWER_SECONDS = 30.0

_LOG_IN = (
  "Log in with `gcloud auth application-default login`, or set"
  " GOOGLE_APPLICATION_CREDENTIALS to the file of a service account."
)
# Modules of the clients' own exceptions.
_CLIENTS = ("aiohttp", "fsspec", "gcsfs", "google", "requests", "urllib3")

# Errors of a local path that is missing, forbidden or no valid one.
_REFUSALS = (
  *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
  *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
)


def check(
  path: epath.PathLike, name: str, *, for_checkpoints: bool = False
) -> None:
  """Check that a path can be listed if it is in a bucket.

  Args:
    path: Local or gs:// path.
    name: The flag or field that holds it, such as "--workdir".
    for_checkpoints: True if it has or gets checkpoints: Orbax needs more than
      the right to list and read.

  Raises:
    ConfigError: The bucket can't be accessed; one line has the cause and the
      remedy.
  """
  if not paths.is_remote(path):
    return
  try:
    path = paths.resolve(path)
  except ConfigError as error:
    raise ConfigError(f"{name}: {error}") from error
  bucket, _, prefix = str(path).removeprefix("gs://").partition("/")
  errors: list[Exception] = []

  def access() -> None:
    try:
      _access(bucket, prefix, for_checkpoints)
    except Exception as error:  # each client has errors of its own
      errors.append(error)

  thread = threading.Thread(target=access, daemon=True)
  thread.start()
  thread.join(_ANSWER_SECONDS)
  if thread.is_alive():
    errors.append(TimeoutError(f"no answer within {_ANSWER_SECONDS:.0f} s"))
  if errors:
    cause = describe(errors[0], path)
    raise ConfigError(f"{name}={path}: {cause}") from errors[0]


def _access(bucket: str, prefix: str, for_checkpoints: bool) -> None:
  """List one object; do what Orbax does."""
  from google.cloud import storage
  from google.cloud.storage import retry

  limits = {
    "retry": retry.DEFAULT_RETRY.with_timeout(_RETRY_SECONDS),
    "timeout": _RETRY_SECONDS,
  }
  client = storage.Client() if for_checkpoints else reader()
  list(client.list_blobs(bucket, prefix=prefix, max_results=1, **limits))
  if for_checkpoints:  # Orbax asks whether the bucket has real directories
    client.get_bucket(bucket, **limits)


def reader() -> Any:
  """Return a client, without credentials one that reads public buckets."""
  from google.auth import exceptions
  from google.cloud import storage

  try:
    return storage.Client()
  except exceptions.DefaultCredentialsError:
    return storage.Client.create_anonymous_client()


def describe(error: BaseException, path: epath.PathLike) -> str:
  """Return the cause and the remedy of an error of a bucket's client.

  Args:
    error: The error.
    path: The path in the bucket that was accessed.
  """
  bucket = "/".join(str(path).split("/")[:3])
  chain = _with_causes(error)
  code = _status(chain)
  message = _message(chain[-1])
  if code == 401:
    return (
      f"the credentials for {bucket} are missing, expired or revoked. {_LOG_IN}"
    )
  if code == 403:
    return (
      f"no permission: {message} Ask for the roles Storage Object Admin and"
      f" Storage Legacy Bucket Reader on {bucket}, or log in as another user."
    )
  if code == 404 and "bucket does not exist" in message:
    return (
      f"there is no bucket {bucket}. Correct the path, or create it with"
      f" `gcloud storage buckets create {bucket}`."
    )
  if code == 404 or isinstance(error, ValueError):  # no object; no valid name
    return message
  return (
    f"{bucket} does not answer: {message} Check the network, and start again."
  )


def is_refusal(error: BaseException) -> bool:
  """Return True if the same access, to a disk or a bucket, would fail again.

  The path is missing or no valid one, or this user has no permission. Other
  errors are those of a disk or a network that fails now.
  """
  chain = _with_causes(error)
  return _status(chain) in (401, 403, 404) or any(
    (isinstance(each, OSError) and each.errno in _REFUSALS)
    or str(each).startswith("PERMISSION_DENIED: ")  # TensorStore, of a disk
    for each in chain
  )


def is_error_of_bucket(error: BaseException) -> bool:
  """Return True for an error that a client of a bucket raised."""
  if type(error).__module__.partition(".")[0] in _CLIENTS:
    return True
  # gcsfs raises OSError with a URL; TensorStore ValueError with a status.
  text = str(error)
  return (isinstance(error, OSError) and "/storage/v1/" in text) or bool(
    re.match(r"[A-Z_]+: ", text) and "gs://" in text
  )


def _with_causes(error: BaseException) -> list[BaseException]:
  """Return an error, its cause, the cause of that, and so on."""
  chain = [error]
  while (cause := chain[-1].__cause__) and cause not in chain:
    chain.append(cause)
  return chain


def _status(chain: Iterable[BaseException]) -> int | None:
  """Return the HTTP status of errors; 401 if there are no credentials."""
  kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
  if {"DefaultCredentialsError", "RefreshError"} & kinds:
    return 401
  return next((code for each in chain if (code := _status_of_one(each))), None)


def _status_of_one(error: BaseException) -> int | None:
  code = getattr(error, "code", None)
  if isinstance(code, int):
    return int(code)
  text = str(error)
  if isinstance(error, OSError) and text.startswith("Forbidden"):
    return 403
  found = re.search(r"HTTP response code: (\d+)", text)  # TensorStore
  return int(found[1]) if found else None


def _message(error: BaseException) -> str:
  """Return what the server or the client says, in one line with a full stop."""
  text = getattr(error, "message", None) or str(error) or type(error).__name__
  text = re.sub(r"(?:GET|POST|PUT|DELETE|Forbidden:) \S+", "", text)
  found = re.search(r'"message": "(.*?)"', text) or re.search(
    r"\[Errno -?\d+\] ([^'\")]+)", text
  )
  line = " ".join((found[1] if found else text).split())
  return line.lstrip(": ").rstrip(".") + "."
