"""Markdown tables."""

import pytest

from sam_jax.reports import markdown


def test_numbers_are_aligned_to_the_right_below_their_titles():
  header = ("method", "error (%)", "seeds")
  rows = [("SGD", "14.46 ± 4.10", "3"), ("ASAM", "5.9", "12")]
  assert markdown.table(header, rows, text_columns=1) == [
    "| method |    error (%) | seeds |",
    "| ------ | -----------: | ----: |",
    "| SGD    | 14.46 ± 4.10 |     3 |",
    "| ASAM   |          5.9 |    12 |",
  ]


def test_all_columns_are_text_by_default():
  assert markdown.table(("a", "claim"), [("1", "SAM is better")]) == [
    "| a   | claim         |",
    "| --- | ------------- |",
    "| 1   | SAM is better |",
  ]


def test_separators_and_newlines_stay_inside_their_cell():
  *_, row = markdown.table(("notes",), [("a | b\nc",)])
  assert row == r"| a \| b c |"


def test_a_row_with_another_number_of_cells_is_an_error():
  with pytest.raises(ValueError):
    markdown.table(("a", "b"), [("1",)])
