"""Suggestions for misspelled names, as in "Did you mean 'a'?"."""

import difflib
from collections.abc import Iterable

# Below this similarity a guess would be odd; "rho" and "roh" have 0.67.
_CUTOFF = 0.6

# A whole name such as "modelname" must come very close to "model.name": names
# of one group are alike because of their group.
_WHOLE_NAME_CUTOFF = 0.9


def closest(name: str, known: Iterable[str]) -> str:
  """Return the known name that was probably meant, or "" if none is close."""
  found = max(known, key=lambda other: _similarity(name, other), default="")
  return found if _similarity(name, found) >= _CUTOFF else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """Return "Known: a, b. Did you mean 'a'?" for an error message."""
  known = list(known)
  text = f"Known: {', '.join(known)}."
  close = closest(name, known)
  return f"{text} Did you mean '{close}'?" if close else text


def closest_fields(name: str, known: Iterable[str]) -> list[str]:
  """Return the fields of a config that were probably meant, or none.

  The last component counts most: "optimizer.lr" and "lr" suggest
  "optimizer.learning_rate", and "schedul" suggests "sam.schedule" and
  "optimizer.schedule". If the group of a name exists, suggest a field of that
  group, unless other groups have a field with exactly that name.

  Args:
    name: Dotted name that is not a field.
    known: Dotted names of all fields.
  """
  group, _, last = name.rpartition(".")
  known = list(known)
  is_group = any(other.startswith(f"{group}.") for other in known)

  def score(other: str) -> tuple[float, float]:
    other_group, _, other_last = other.rpartition(".")
    initials = "".join(word[0] for word in other_last.split("_"))
    same = 1.0 if last == initials else _similarity(last, other_last)
    if is_group and group != other_group and same < 1:
      same = 0.0
    if _similarity(_letters(name), _letters(other)) >= _WHOLE_NAME_CUTOFF:
      same = 1.0
    return same, _similarity(name, other)

  best = max(known, key=score, default="")
  if not best or score(best)[0] < _CUTOFF:
    return []
  best_group, _, leaf = best.rpartition(".")
  if group and _similarity(group, best_group) >= _CUTOFF:  # a typo in it
    return [best]
  return [
    other
    for other in sorted(known, key=score, reverse=True)
    if other.rpartition(".")[2] == leaf and score(other)[0] == score(best)[0]
  ]


def _similarity(a: str, b: str) -> float:
  """Return a similarity from 0, no common letters, to 1, equal."""
  return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()


def _letters(name: str) -> str:
  return name.replace(".", "").replace("_", "")
