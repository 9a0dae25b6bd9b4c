"""The words after the colon of --config, which choose a config's variant.

A config file declares groups of words. Of each group a variant has exactly one
word, by default the first that goes together with the others:

    VARIANTS = Variants(
      model=("wrn28_10", "pyramidnet"),
      dataset=("cifar10", "cifar100"),
      optimizer=("sam", "sgd"),
      options=("tune",),
    )
    words = VARIANTS.parse("cifar100,sgd")
    words.model  # "wrn28_10"
    words.tune  # False
"""

import itertools
import types
from collections.abc import Iterator, Sequence

from sam_jax.config.schema import did_you_mean


class Variants:
  """The groups of words that a config file knows."""

  def __init__(
    self,
    *,
    options: Sequence[str] = (),
    excluded: Sequence[tuple[str, str]] = (),
    **groups: Sequence[str],
  ):
    """Declares the words.

    Args:
      options: Words that may be added to any variant.
      excluded: Pairs of words that don't go together.
      **groups: Name of a group and its words.
    """
    self._groups = groups
    self._options = tuple(options)
    self._excluded = {frozenset(pair) for pair in excluded}

  @property
  def words(self) -> list[str]:
    """Every word, group by group."""
    return [*itertools.chain(*self._groups.values()), *self._options]

  def parse(self, variant: str | None) -> types.SimpleNamespace:
    """Reads the words of a variant.

    Args:
      variant: Words in any order, separated by commas; None or "" is the
        default variant.

    Returns:
      An attribute for each group, its word, and for each option, whether it
      was given.

    Raises:
      ValueError: A word is unknown, or two exclude each other.
    """
    given = self._check(variant)
    chosen = next(self._combinations(given))
    options = {option: option in given for option in self._options}
    return types.SimpleNamespace(**chosen, **options)

  def expand(self, variant: str | None) -> list[str]:
    """Returns every variant that has the words given: all words are named.

    Args:
      variant: As in `parse`; groups without a word in it run through theirs.

    Raises:
      ValueError: As in `parse`.
    """
    given = self._check(variant)
    options = [option for option in self._options if option in given]
    return [
      ",".join([*chosen.values(), *options])
      for chosen in self._combinations(given)
    ]

  def _check(self, variant: str | None) -> list[str]:
    given = [word.strip() for word in (variant or "").split(",")]
    given = [word for word in given if word]
    for word in given:
      if word not in self.words:
        raise ValueError(
          f"Unknown variant {word!r}. {did_you_mean(word, self.words)}"
        )
    for pair in itertools.combinations(dict.fromkeys(given), 2):
      in_a_group = any(set(pair) <= set(g) for g in self._groups.values())
      if in_a_group or frozenset(pair) in self._excluded:
        raise ValueError(
          f"The variants {pair[0]!r} and {pair[1]!r} exclude each other."
          f" Known: {', '.join(self.words)}."
        )
    if next(self._combinations(given), None) is None:
      raise ValueError(
        f"No variant has all of {variant!r}. Known: {', '.join(self.words)}."
      )
    return given

  def _combinations(self, given: Sequence[str]) -> Iterator[dict[str, str]]:
    """A word for each group, so that none exclude each other."""
    choices = [
      [word for word in group if word in given] or group
      for group in self._groups.values()
    ]
    for words in itertools.product(*choices):
      pairs = itertools.combinations({*words, *given}, 2)
      if not any(frozenset(pair) in self._excluded for pair in pairs):
        yield dict(zip(self._groups, words, strict=True))
