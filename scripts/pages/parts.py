"""Parts of pages that are made from data."""

import pathlib
import re

from scripts.pages import measurements
from scripts.pages.sections import SECTIONS

_PART = re.compile(
  r"(<!-- python -m scripts\.pages: (\w+) -->\n)(.*?)(<!-- end -->\n)",
  re.DOTALL,
)
_MARK = re.compile(r"<!-- (?:python -m scripts\.pages|end)")


class UnknownPartError(ValueError):
  """A page has a mark that begins or ends no known part."""


def pages() -> list[pathlib.Path]:
  """Return the files that may have such parts."""
  docs = sorted((measurements.REPOSITORY / "docs").glob("*.md"))
  return [measurements.REPOSITORY / "README.md", *docs]


def names(text: str) -> list[str]:
  """Return the names of the parts of a page."""
  return [match[2] for match in _PART.finditer(text)]


def outside(text: str) -> str:
  """Return the text of a page without its parts."""
  return _PART.sub("", text)


def fill(text: str) -> str:
  """Return the text of a page with its parts made again.

  Raises:
    UnknownPartError: A name is unknown, or a part has no end.
  """
  unknown = [name for name in names(text) if name not in SECTIONS]
  if unknown:
    raise UnknownPartError(f"{unknown[0]!r} is no part; known: {[*SECTIONS]}.")
  rest = outside(text)
  mark = _MARK.search(rest)
  if mark:
    line = rest[mark.start() :].partition("\n")[0]
    raise UnknownPartError(f"No part begins and ends at: {line}")
  return _PART.sub(_make, text)


def _make(match: re.Match[str]) -> str:
  section = SECTIONS[match[2]]
  lines = section.render([measurements.read(name) for name in section.files])
  return match[1] + "".join(f"{line}\n" for line in lines) + match[4]
