"""The words of a config."""

import pytest

from sam_jax.config.common import RHO_GRID, table_runs
from sam_jax.config.variants import Variants

VARIANTS = Variants(
  model=("small", "large"),
  epochs=("short", "long"),
  method=("sam", "sgd"),
  options=("double_epochs", "tune"),
  excluded=(("large", "short"), ("double_epochs", "sam")),
)


def test_defaults_are_the_first_words_that_are_compatible():
  words = VARIANTS.parse(None)
  assert (words.model, words.epochs, words.method) == ("small", "short", "sam")
  assert (words.double_epochs, words.tune) == (False, False)
  assert VARIANTS.parse("large").epochs == "long"
  assert VARIANTS.parse("double_epochs").method == "sgd"


def test_words_come_in_any_order_and_have_one_text():
  words = VARIANTS.parse(" tune , sgd,large")
  assert words.text == "large,long,sgd,tune"
  assert VARIANTS.parse(words.text) == words
  assert VARIANTS.expand(words.text) == [words.text]


def test_expand_runs_through_the_groups_without_a_word():
  assert VARIANTS.expand("sgd") == [
    "small,short,sgd",
    "small,long,sgd",
    "large,long,sgd",
  ]
  assert VARIANTS.expand("double_epochs,large") == [
    "large,long,sgd,double_epochs"
  ]


@pytest.mark.parametrize(
  ("variant", "message"),
  [
    ("smal", "Unknown variant 'smal'. Known: small, .* Did you mean 'small'"),
    ("adam", "Unknown variant 'adam'. Known: .*, tune.$"),
    ("sam,sgd", "'sam' and 'sgd' exclude each other. Known: small"),
    ("short,large", "'short' and 'large' exclude"),
  ],
)
def test_wrong_words(variant, message):
  with pytest.raises(ValueError, match=message) as error:
    VARIANTS.parse(variant)
  assert "\n" not in str(error.value)


def test_words_of_which_no_variant_has_all():
  variants = Variants(
    a=("x", "y"),
    b=("u", "v"),
    options=("o",),
    excluded=(("x", "o"), ("y", "v"), ("u", "o")),
  )
  with pytest.raises(ValueError, match="No variant has all of 'o'"):
    variants.parse("o")


def test_runs_of_a_table():
  runs = list(table_runs(VARIANTS, "small,short", seeds=(0, 1)))
  assert runs == [
    {"variant": variant, "seed": seed}
    for variant in (
      "small,short,sam",
      "small,short,sgd",
      "small,short,sgd,double_epochs",
    )
    for seed in (0, 1)
  ]
  runs = list(table_runs(VARIANTS, "small,short,tune"))
  assert runs == [
    *({"variant": "small,short,sam,tune", "sam.rho": r} for r in RHO_GRID),
    {"variant": "small,short,sgd,tune"},
  ]
