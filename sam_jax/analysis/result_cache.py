"""A file of results: an analysis that was stopped resumes where it was."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from sam_jax import paths
from sam_jax.runs import files

logger = logging.getLogger(__name__)


class ResultCache:
  """A JSON file of results, each with a key of everything that decides it.

  A result is found only under exactly the same key: one of other weights,
  examples or settings is never mistaken for it.
  """

  def __init__(self, path: epath.PathLike):
    """Read a file; one that is missing or damaged has no results.

    Args:
      path: Local or gs:// path.
    """
    self.path = paths.resolve(path)
    self._entries: list[dict[str, Any]] = []
    if self.path.exists():
      try:
        entries = json.loads(self.path.read_text())["results"]
        self._entries = [
          {"key": entry["key"], "result": entry["result"]} for entry in entries
        ]
      except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged: its results are lost.", self.path)

  def __contains__(self, key: Mapping[str, Any]) -> bool:
    """Return True if there is a result, finite or not, under a key."""
    return self._find(key) is not None

  def get(self, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """Return the result under a key; compute and save it if there is none.

    Every new result writes the whole file again, which takes little time
    compared with a computation.

    Args:
      key: JSON values that decide the result.
      compute: Returns the result, made of JSON values.

    Returns:
      The result. Its numbers that are not finite are None: JSON has none.
    """
    entry = self._find(key)
    if entry is None:
      entry = {"key": dict(key), "result": _without_non_finite(compute())}
      self._entries.append(entry)
      self.path.parent.mkdir(parents=True, exist_ok=True)
      files.write_json(self.path, {"results": self._entries})
    return entry["result"]

  def _find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry: its result may be None, of a number not finite."""
    return next((e for e in self._entries if e["key"] == key), None)


def _without_non_finite(value: Any) -> Any:
  """Replace nan and infinities by None."""
  if isinstance(value, Mapping):
    return {name: _without_non_finite(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [_without_non_finite(each) for each in value]
  is_odd = isinstance(value, float) and not math.isfinite(value)
  return None if is_odd else value
