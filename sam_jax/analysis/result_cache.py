"""Results of an analysis, saved piece by piece: a stopped one can go on."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from sam_jax.runs import files

logger = logging.getLogger(__name__)


class Pieces:
  """A JSON file of results, each with everything that it depends on.

  A result is found again only under the very same key, so one of other weights,
  examples or settings is never taken for it.
  """

  def __init__(self, path: epath.PathLike):
    """Opens a file; one that is missing or damaged holds nothing.

    Args:
      path: Local or gs:// path.
    """
    self.path = epath.Path(path)
    self._pieces = []
    if self.path.exists():
      try:
        pieces = json.loads(self.path.read_text())["pieces"]
        self._pieces = [{"of": p["of"], "result": p["result"]} for p in pieces]
      except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged: its results are lost.", self.path)

  def __contains__(self, key: Mapping[str, Any]) -> bool:
    """Whether there is a result, finite or not, under a key of JSON values."""
    return self._find(key) is not None

  def get(self, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """The result under a key, computed and saved if it is not there yet.

    The file is written anew each time, which is little beside a computation.

    Args:
      key: JSON values that decide the result.
      compute: Returns it, made of JSON values.

    Returns:
      The result. Numbers that are not finite are None in it, as JSON has none.
    """
    piece = self._find(key)
    if piece is None:
      piece = {"of": dict(key), "result": _finite(compute())}
      self._pieces.append(piece)
      self.path.parent.mkdir(parents=True, exist_ok=True)
      files.write_json(self.path, {"pieces": self._pieces})
    return piece["result"]

  def _find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The piece: its result may be None, of a number that is not finite."""
    return next((p for p in self._pieces if p["of"] == key), None)


def _finite(value: Any) -> Any:
  """Replaces nan and infinities by None."""
  if isinstance(value, Mapping):
    return {name: _finite(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(each) for each in value]
  is_odd = isinstance(value, float) and not math.isfinite(value)
  return None if is_odd else value
