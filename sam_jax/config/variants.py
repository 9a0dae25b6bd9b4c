"""The words after the colon of --config, which choose a variant of a config.

A config file declares groups of words. A variant has exactly one word of each
group: if none is given, the first one that is compatible with the others.

    VARIANTS = Variants(
      model=("wrn28_10", "pyramidnet"),
      dataset=("cifar10", "cifar100"),
      optimizer=("sam", "sgd"),
      options=("tune",),
    )
    words = VARIANTS.parse("cifar100,sgd")
    words.model  # "wrn28_10"
    words.tune  # False
    words.text  # "wrn28_10,cifar100,sgd"
"""

import itertools
import types
from collections.abc import Iterator, Sequence

from sam_jax.config.hints import did_you_mean


class Variants:
  """The groups of words that a config file accepts."""

  def __init__(
    self,
    *,
    options: Sequence[str] = (),
    excluded: Sequence[tuple[str, str]] = (),
    **groups: Sequence[str],
  ):
    """Declare the words.

    Args:
      options: Words that may be added to any variant.
      excluded: Pairs of words that exclude each other.
      **groups: Words by the name of their group.
    """
    self.options = tuple(options)
    self._groups = groups
    self._excluded = {frozenset(pair) for pair in excluded}

  @property
  def words(self) -> list[str]:
    """All words, group by group, and then the options."""
    return [*itertools.chain(*self._groups.values()), *self.options]

  def parse(self, variant: str | None) -> types.SimpleNamespace:
    """Return the words of a variant.

    Args:
      variant: Words in any order, separated by commas; None or "" is the
        default variant.

    Returns:
      An attribute for each group with its word; one for each option, True if it
      was given; and `text`, all words of the variant in the order of `words`.

    Raises:
      ValueError: A word is unknown, or two words exclude each other.
    """
    given = self._check(variant)
    chosen = next(self._combinations(given))
    options = {option: option in given for option in self.options}
    return types.SimpleNamespace(
      **chosen, **options, text=self._join(chosen, given)
    )

  def expand(self, variant: str | None) -> list[str]:
    """Return all variants that have the given words, each with all its words.

    Args:
      variant: As in `parse`. If it has no word of a group, expand to every word
        of that group.

    Raises:
      ValueError: As in `parse`.
    """
    given = self._check(variant)
    return [self._join(chosen, given) for chosen in self._combinations(given)]

  def _join(self, chosen: dict[str, str], given: Sequence[str]) -> str:
    options = [option for option in self.options if option in given]
    return ",".join([*chosen.values(), *options])

  def _check(self, variant: str | None) -> list[str]:
    """Return the words of a variant, or raise a ValueError."""
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
    """Yield a word for each group so that no two words exclude each other."""
    choices = [
      [word for word in group if word in given] or group
      for group in self._groups.values()
    ]
    for words in itertools.product(*choices):
      pairs = itertools.combinations({*words, *given}, 2)
      if not any(frozenset(pair) in self._excluded for pair in pairs):
        yield dict(zip(self._groups, words, strict=True))
